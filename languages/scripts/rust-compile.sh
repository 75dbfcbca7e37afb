# Compiles one crate of one file, with the crates of a library layer if there is one.
[ ! -f /opt/libraries/rustc.args ] || set -- "$1" @/opt/libraries/rustc.args
exec rustc --edition 2021 -O -C strip=debuginfo -o main "$@"
