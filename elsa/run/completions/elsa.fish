# Completion of elsa for fish: elsa completion fish | source
function __elsa_candidates
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l found ($words[1] completion candidates (string join ' ' -- $words $current) 2> /dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else if string match --quiet '*=*' -- $current
        set -l key (string match --regex '^.*=' -- $current)
        printf '%s\n' $key(__fish_complete_path (string replace -- $key '' $current))
    else
        __fish_complete_path $current
    end
end
complete --command elsa --no-files --arguments '(__elsa_candidates)'
