# bash completion for berth(1)

_berth() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "serve run ps logs session languages layers engines drain image version help" -- "$cur")
        return
    fi
    if [[ $command == session ]]; then
        if [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -W "new exec attach ls rm" -- "$cur")
            return
        fi
        command="session ${COMP_WORDS[2]}"
    fi
    if [[ $command == image ]]; then
        if [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -W "pull import build load ls rm" -- "$cur")
            return
        fi
        command="image ${COMP_WORDS[2]}"
    fi
    case $prev in
    --name) return ;;
    --lang | -l) mapfile -t COMPREPLY < <(compgen -W "bash c cpp go java javascript lua perl php python r ruby rust sql typescript" -- "$cur"); return ;;
    --network) mapfile -t COMPREPLY < <(compgen -W "none egress" -- "$cur"); return ;;
    --profile) mapfile -t COMPREPLY < <(compgen -W "strict container" -- "$cur"); return ;;
    --file | --stdin | --authfile) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --state | --save-images | --images) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    --code | -c | --timeout | -t | --idle-timeout | --ram | --cpu | --storage | --image | --env | -e | --allow | --library | --host | --port) return ;;
    esac
    local words=""
    case $command in
    serve) words="--host --port --state --help" ;;
    run) words="--code --lang --timeout --ram --cpu --storage --image --profile --engine --runtime --env --network --allow --library --file --stdin --json --help" ;;
    ps) words="--all --json --help" ;;
    languages) words="--engine --image --json --help" ;;
    engines) words="--json --help" ;;
    logs) words="--follow --save-images --help" ;;
    layers) words="ls rm --json --help" ;;
    drain) words="--lift --help" ;;
    "image pull" | "image import") words="--name --replace --tls-verify=false --authfile --images --engine --help" ;;
    "image build") words="--engine --tag --file --build-arg --network --no-cache --pull --authfile --help" ;;
    "image load") words="--engine --help" ;;
    "image ls") words="--json --images --engine --help" ;;
    "image rm") words="--images --engine --help" ;;
    "session new") words="--lang --timeout --idle-timeout --ram --cpu --storage --image --profile --engine --runtime --env --network --allow --library --json --help" ;;
    "session exec") words="--file --timeout --stdin --save-images --json --help" ;;
    "session attach") words="--timeout --save-images --help" ;;
    "session ls") words="--quiet --json --help" ;;
    "session rm") words="--help" ;;
    help) words="serve run ps logs session languages layers engines drain image version" ;;
    esac
    if [[ ($command == run || $command == "image import" || $command == "image load" || $command == "image build") && $cur != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    elif [[ $command == session\ [ear]* && $cur != -* ]]; then # ids
        mapfile -t COMPREPLY < <(compgen -W "$("${COMP_WORDS[0]}" session ls --quiet 2>/dev/null)" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}
complete -o filenames -F _berth berth
