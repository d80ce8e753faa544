# Completion of elsa for bash: eval "$(elsa completion bash)"
_elsa() {
    local line="${COMP_LINE:0:COMP_POINT}" each word cut
    word="${line##*[[:space:]]}"
    cut="${word%"${word##*[=:]}"}" # bash takes what stands before as another word
    COMPREPLY=()
    while IFS= read -r each; do
        case "$each" in
            "") continue ;;
            *[=./]) ;;
            *) each="$each " ;;
        esac
        COMPREPLY+=("${each#"$cut"}")
    done < <("$1" completion candidates "$line" 2> /dev/null)
}
complete -o nospace -o default -F _elsa elsa
