# Compiles one file: outside of modules, or as part of the module that a library layer has.
if [ -f /opt/libraries/go.mod ]; then
    export GO111MODULE=on GOMODCACHE=/opt/libraries/mod GOPROXY=off
    printf '{"Replace": {"%s/go.mod": "/opt/libraries/go.mod", "%s/go.sum": "/opt/libraries/go.sum"}}' "$PWD" "$PWD" >/tmp/overlay.json
    set -- -overlay /tmp/overlay.json "$@"
fi
exec go build -o main "$@"
