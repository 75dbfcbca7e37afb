# bash completion for berth(1)

_berth() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "serve run ps version help" -- "$cur")
        return
    fi
    case $prev in
    --lang | -l) mapfile -t COMPREPLY < <(compgen -W "python" -- "$cur"); return ;;
    --profile) mapfile -t COMPREPLY < <(compgen -W "strict container" -- "$cur"); return ;;
    --file | --stdin) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --state) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    --code | -c | --timeout | -t | --ram | --cpu | --storage | --image | --env | -e | --host | --port) return ;;
    esac
    local words=""
    case $command in
    serve) words="--host --port --state --help" ;;
    run) words="--code --lang --timeout --ram --cpu --storage --image --profile --env --file --stdin --json --help" ;;
    ps) words="--all --json --help" ;;
    help) words="serve run ps version" ;;
    esac
    if [[ $command == run && $cur != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}
complete -o filenames -F _berth berth
