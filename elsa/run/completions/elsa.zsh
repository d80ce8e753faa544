#compdef elsa
# Completion of elsa for zsh: eval "$(elsa completion zsh)"
_elsa() {
    local -a found
    found=("${(@f)$("${words[1]}" completion candidates "${(j: :)words[1,CURRENT-1]} $PREFIX" 2> /dev/null)}")
    found=(${found:#})
    if (( $#found )); then
        compadd -Q -- ${found:#*[=./]}
        compadd -Q -S '' -- ${(M)found:#*[=./]}
    else
        compset -P '*='
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _elsa elsa
