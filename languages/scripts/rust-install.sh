# Installs crates: cargo fetches and builds them in release, and what it would then give to rustc for a program
# that uses them all is kept as a file of arguments.
# A requirement is name[feature,feature]@version.
set -eu
place=/opt/libraries
work=$place/work
mkdir -p $work/src
cd $work
export CARGO_HOME=$work/home CARGO_TARGET_DIR=$place/target CARGO_TERM_COLOR=never

{
    printf '[package]\nname = "libraries"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n\n[dependencies]\n'
    for text; do
        version='*'
        features=
        case $text in *@*) version=${text#*@} text=${text%%@*} ;; esac
        case $text in *'['*) features=${text#*'['} text=${text%%'['*} ;; esac
        [ -z "$features" ] || features="\"$(printf '%s' "${features%]}" | sed 's/,/", "/g')\""
        printf '%s = { version = "%s", features = [%s] }\n' "$text" "$version" "$features"
    done
} >Cargo.toml
echo 'fn main() {}' >src/main.rs

# Before 1.68 cargo knows the registry's index over HTTP as an experiment only, and git, which it would use, has no
# way through a proxy that lets nothing but the registry pass. For fetching alone: what is built is stable Rust.
early=
case $(cargo --version) in
"cargo 1."[0-9].* | "cargo 1."[1-5][0-9].* | "cargo 1.6"[0-7].*) early="RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_SPARSE_REGISTRY=true" ;;
esac
# shellcheck disable=SC2086 # a list of words
env $early cargo vendor --quiet --versioned-dirs $work/vendor >/dev/null
mkdir .cargo
printf '[source.crates-io]\nreplace-with = "fetched"\n\n[source.fetched]\ndirectory = "%s"\n' $work/vendor >.cargo/config.toml

# cargo runs this for the program alone, not for crates.
cat >rustc.sh <<'END'
#!/bin/sh
if [ "${3:-}" = libraries ]; then
    for word; do
        case ${last:-} in --extern | -L | -l) printf '%s\n%s\n' "$last" "$word" ;; esac
        last=$word
    done >/opt/libraries/rustc.args
fi
exec "$@"
END
chmod 755 rustc.sh
RUSTC_WORKSPACE_WRAPPER=$work/rustc.sh cargo build --quiet --release --offline

awk -F '"' '/^name/ { name = $2 } /^version/ && name != "" && name != "libraries" { print name, $2 }' Cargo.lock >$place/installed
cd $place
rm -rf $work target/.rustc_info.json target/release/.fingerprint target/release/incremental target/release/libraries* \
    target/release/deps/libraries-* target/release/deps/*.d target/release/build/*/build-script-* \
    target/release/build/*/build_script_*
