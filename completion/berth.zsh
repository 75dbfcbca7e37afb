#compdef berth
# zsh completion for berth(1)

_berth() {
    local -a commands
    commands=('serve:start the server' 'run:run code in a fresh sandbox'
        'ps:list the executions of a server' 'logs:print what an execution has said'
        'session:sandboxes that keep their state' 'languages:what code may be written in' 'layers:libraries that a server keeps' 'engines:what runs sandboxes'
        'drain:end all that runs on a server'
        'image:OCI images for the server'
        'version:print the version' 'help:show help')
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    case $words[2] in
    serve)
        _arguments '--host[address]:host:' '--port[port]:port:' '--state[state folder]:folder:_files -/' '--help'
        ;;
    run)
        _arguments '(-c --code)'{-c,--code}'[the code]:code:' '(-l --lang)'{-l,--lang}'[language]:language:(bash c cpp go java javascript lua perl php python r ruby rust sql typescript)' \
            '(-t --timeout)'{-t,--timeout}'[seconds]:seconds:' '--ram[memory limit]:size:' '--cpu[cores]:cores:' \
            '--storage[size of the writable root]:size:' '--image[what is under /]:image:' \
            '--profile[rights inside]:profile:(strict container)' '--engine[what runs it]:engine:' '--runtime[in which of its ways]:runtime:' '*'{-e,--env}'[variable]:NAME=VALUE:' \
            '--network[where to connect]:mode:(none egress)' '*--allow[egress to these alone]:rule:' \
            '*--library[of the language]:name:' '*--file[copy in]:file:_files' \
            '--stdin[standard input]:file:_files' '--json[print the object]' '--help' '*:file:_files'
        ;;
    ps) _arguments '--all' '--json' '--help' ;;
    languages) _arguments '--engine:engine:' '--image:image:' '--json' '--help' ;;
    engines) _arguments '--json' '--help' ;;
    logs) _arguments '(-f --follow)'{-f,--follow}'[wait for the rest]' '--save-images[folder]:folder:_files -/' '--help' ;;
    layers) _values command ls rm ;;
    drain) _arguments '--lift[take requests again]' '--help' ;;
    image)
        if ((CURRENT == 3)); then
            _values command pull import build load ls rm
            return
        fi
        _arguments '--name[what to call it]:name:' '--replace[take the place of another]' '--tls-verify=false' \
            '--authfile[who to be]:file:_files' '--images[folder of images]:folder:_files -/' '--json' '--help' '*:image:_files' \
            '--engine[whose images]:engine:(docker)' '(-t --tag)'{-t,--tag}'[build: its name]:name:' '--file[build: within the folder]:file:_files' \
            '*--build-arg[build: name=value]:argument:' '--network[build: of its steps]:mode:' '--no-cache' '--pull'
        ;;
    session)
        if ((CURRENT == 3)); then
            _values command new exec attach ls rm
            return
        fi
        case $words[3] in
        new)
            _arguments '(-l --lang)'{-l,--lang}'[language]:language:(bash c cpp go java javascript lua perl php python r ruby rust sql typescript)' \
                '(-t --timeout)'{-t,--timeout}'[end it after]:seconds:' '--idle-timeout[end it when idle]:seconds:' \
                '--ram[memory limit]:size:' '--cpu[cores]:cores:' '--storage[size of the writable root]:size:' \
                '--image[what is under /]:image:' '--profile[rights inside]:profile:(strict container)' '--engine[what runs it]:engine:' '--runtime[in which of its ways]:runtime:' \
                '*'{-e,--env}'[variable]:NAME=VALUE:' '--network[where to connect]:mode:(none egress)' \
                '*--allow[egress to these alone]:rule:' '*--library[of the language]:name:' '--json[print the object]' '--help'
            ;;
        exec)
            _arguments '(-f --file)'{-f,--file}'[the code]:file:_files' '(-t --timeout)'{-t,--timeout}'[seconds]:seconds:' \
                '--stdin[standard input]:file:_files' '--save-images[folder]:folder:_files -/' '--json[print the object]' \
                '--help' '*:id:'
            ;;
        attach) _arguments '(-t --timeout)'{-t,--timeout}'[seconds]:seconds:' '--save-images[folder]:folder:_files -/' '--help' ':id:' ;;
        ls) _arguments '(-q --quiet)'{-q,--quiet}'[ids alone]' '--json' '--help' ;;
        rm) _arguments '--help' '*:id:' ;;
        esac
        ;;
    help) _values command serve run ps logs session languages layers engines drain image version ;;
    esac
}
_berth "$@"
