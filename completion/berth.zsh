#compdef berth
# zsh completion for berth(1)

_berth() {
    local -a commands
    commands=('serve:start the server' 'run:run code in a fresh sandbox'
        'ps:list the executions of a server' 'version:print the version' 'help:show help')
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    case $words[2] in
    serve)
        _arguments '--host[address]:host:' '--port[port]:port:' '--state[state folder]:folder:_files -/' '--help'
        ;;
    run)
        _arguments '(-c --code)'{-c,--code}'[the code]:code:' '(-l --lang)'{-l,--lang}'[language]:language:(python)' \
            '(-t --timeout)'{-t,--timeout}'[seconds]:seconds:' '--ram[memory limit]:size:' '--cpu[cores]:cores:' \
            '--storage[size of the writable root]:size:' '--image[what is under /]:image:' \
            '--profile[rights inside]:profile:(strict container)' '*'{-e,--env}'[variable]:NAME=VALUE:' '*--file[copy in]:file:_files' \
            '--stdin[standard input]:file:_files' '--json[print the object]' '--help' '*:file:_files'
        ;;
    ps) _arguments '--all' '--json' '--help' ;;
    help) _values command serve run ps version ;;
    esac
}
_berth "$@"
