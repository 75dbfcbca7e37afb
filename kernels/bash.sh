# The kernel of bash: the protocol by lines of README.md. Its names begin with __berth_.
#
# The shell that keeps the state is the one that runs the cells, by eval, outside of any function and at its line 1.
# What would end it (exit, set -e, an unset variable, SIGINT) runs the EXIT trap of this file: that says D, forks,
# and the copy, which has the whole state, goes on, while the shell that ends waits for it. So each such end costs a
# process; past __berth_copies_max the shell really ends, and init starts another one.
#
# What set -x, or a trap of the user's, says of the commands of this file goes to /dev/null. The descriptors of the
# protocol stay open while a cell runs, so its children have them: when SIGINT ends the shell within a function, the
# EXIT trap runs with the descriptors of the cell.

exec 50<&3 51>&4 52<&0 53>&1 54>&2 3<&- 4>&-

__berth_copies=0 __berth_copies_max=24 __berth_status=0 __berth_running='' __berth_first=0 __berth_traps='' __berth_int='' __berth_code=''

# Takes the next run and makes its code __berth_code. False: there is none any more.
__berth_next() {
    local - TMOUT IFS=$' \t\n' __berth_options=$- __berth_line __berth_rest
    set +abefknuvxBCHT
    [[ -z $__berth_running ]] || __berth_done 0 # the cell did a "continue"
    while :; do
        IFS= builtin read -r -u 50 __berth_line
        case $?:$__berth_line in
        1:*) return 1 ;;
        0:V\ *)
            builtin printf -v __berth_rest %b "${__berth_line#V }"
            builtin declare -gx "$__berth_rest"
            ;;
        0:X\ *)
            __berth_rest=${__berth_line#X * * * }
            builtin printf -v __berth_code %b "$__berth_rest"
            [[ $__berth_code != *trap* ]] || __berth_traps=1
            __berth_running=1
            builtin trap "builtin trap '' INT; builtin exit 130" INT
            [[ -z $__berth_int ]] || builtin eval "$__berth_int"
            builtin trap "$__berth_trap" EXIT
            if builtin read -t 0 -u 50; then # only INTERRUPT comes behind a run
                __berth_done 130
                continue
            fi
            # What $? is for the first command of the cell; not where that would end it, or a trap of ERR might see it.
            __berth_first=0
            [[ $__berth_options == *e* || -n $__berth_traps ]] || __berth_first=$__berth_status
            return 0
            ;;
        esac
    done
}

__berth_return() { return "$1"; }

# Says that the run is over. False: there was none.
__berth_done() {
    local - IFS=$' \t\n' __berth_trap_text
    set +abefknuvxBCHT
    if [[ -n $__berth_traps && -n $__berth_running ]]; then
        __berth_keep_traps
    fi
    builtin trap '' INT
    [[ -n $__berth_running ]] || return 1
    __berth_running=''
    __berth_status=$1
    { builtin printf 'D %d\n' "$1" >&51; } 2>/dev/null
}

# The loop is over: for good, or because the cell did a "break". Nothing here may stand behind && or an if, where set -e
# has no meaning.
__berth_after() {
    __berth_again=''
    if __berth_done 0; then __berth_again=$__berth_main; fi
}

# A handler of SIGINT that the cell set is for the next cells too. One of EXIT runs now: the cell is over, the shell
# is not.
__berth_keep_traps() {
    local __berth_found
    __berth_found=$(builtin trap -p INT)
    __berth_int=''
    [[ $__berth_found == *'builtin exit 130'* ]] || __berth_int=$__berth_found
    __berth_found=$(builtin trap -p EXIT)
    [[ -z $__berth_found || $__berth_found == *__berth_main* ]] && return
    builtin trap - EXIT
    (builtin eval "$__berth_found"; builtin exit 0) <&52 >&53 2>&54
}

# The shell is about to end. True: a copy goes on.
__berth_copy() {
    local -
    builtin trap '' INT
    set +abefknuvxBCHT
    [[ -n $__berth_running ]] && ((__berth_copies < __berth_copies_max)) || return 1
    ((__berth_copies += 1))
    __berth_done "$1"
}

# shellcheck disable=SC2016 # all of it is for later, and on one line: so lines of a cell are counted from 1
{
    __berth_cell='eval "$__berth_code" <&52 >&53 2>&54'
    __berth_trap='if { __berth_copy $?; } 2>/dev/null; then { (builtin eval "exec 2>&54;$__berth_main"); } 2>/dev/null; builtin exit $?; fi'
    __berth_main='{ while __berth_next; do __berth_return "$__berth_first"; '$__berth_cell'; __berth_done $?; done; __berth_after; } >/dev/null 2>&1; { eval "$__berth_again"; } 2>/dev/null'
}
builtin trap '' INT
builtin printf 'R\n' >&51
