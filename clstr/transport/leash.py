"""The leash: the constant command that a session runs, and what the client says and hears on it.

A session runs ``WRAPPER`` under the node's login shell and may be opened before there is a job for it. The
client then writes ``arm(command)`` to the session's standard input and keeps that input open: the rest of it is
the leash. When it ends while the session's first process lives, for whatever reason, a watcher on the node
terminates the job's process group: TERM, KILL_GRACE seconds, KILL. ``Marker`` finds the word that the job begins.

Rules:

- The login shell runs the job itself, by ``eval``, so that functions and settings of its start-up files reach the
  job and those files run once. POSIX shells eval in the main shell: ``exit``, ``exec`` and ``kill $$`` mean what
  they mean to ``ssh HOST CMD``. So does fish. A csh cannot redirect its own input: it evals in a subshell.
- Differences that remain: shells exec the last command of ``-c`` but not that of an eval, so a job whose last
  command dies by a signal may end with the shell's 128+N where ``ssh`` would name the signal; a shell's own messages
  name the eval or its line; fish fails a job that it cannot parse, where its ``-c`` may end with 0; tcsh ends a job
  at its first error, where its ``-c`` goes on behind the next semicolon.
- The watcher is nobody's child (a job that says ``wait`` must not wait for it), holds neither the job's stdout nor
  its stderr, ignores what a job may send to its own group, and blocks in the shell's ``read``: it and the login
  shell are the two processes that a job costs (a csh's subshell is the third).
- A connection with several jobs has a guard, a session of its own (``ssh_guard``), and a job that is told of it starts
  no watcher, whose two forks cost more than all else that the wrapper does. The guard's input is the leash then: at its
  end, or at a word of the client, it does for the first processes of the connection's sessions what a watcher does. It
  knows them by their parent, by the wrapper in their command line and by SSH_CONNECTION in the environment that sshd
  gave them. So a job that may replace its shell (by ``exec``, or unseen: in a file or text that it reads) has a
  watcher all the same. So has a job that finds the guard dead, or sshd: as long as sshd lives the guard has not looked
  round yet, and will find who came so far.
  What nobody can see is a function or alias of the start-up files that replaces the shell: such a job can still be
  terminated by a word of the client, but is not found at the end of the guard's input.
- A job's own standard input comes behind it, as many bytes as its header says, and is spooled to a temporary file,
  which is unlinked before the job starts: the leash stays what it is. A node that cannot hold it (a full disk) runs
  ``exit 1`` for the job, behind the reason; nothing is left there when the input ends early.
- A session's input that ends early, or whose first line is not ours because a start-up file has read it, runs
  nothing. A start-up file that reads on to the end of its input never comes to the wrapper: whoever waits for the
  job to begin has to limit the wait.
- A job that ended by itself is left alone, background children included, as sshd leaves them. sshd closes the
  input then too; the watcher tells the two apart by the session leader, which is dead by that time.

One text for all login shells, after three differences:

- in fish ``\\'`` does not end a single-quoted string, so that the others take fish's part for a string, and fish
  takes theirs for one; no part may hold a single quote;
- ``$?shell`` is 1 in csh, which then goes to its label, and ``0shell`` in POSIX shells, to which csh's part is a
  string in double quotes in a command that they never run;
- POSIX shells read their text line by line and have theirs at the end: a command behind the job's eval would show
  under ``set -x`` and set off the job's DEBUG and ERR traps.

What travels is lines, none empty because csh drops those: the magic word; the number of settings, and ``NAME=VALUE``
for each; ``~`` or ``-``, whether to enter the home directory first, and right behind it the number of the guard's
process, if there is one; the directory, ``.`` for none; the number of the job's lines, and for each 0, 1 where a
newline comes before it, or 2 for nothing but a newline, and its text; and a full stop, without which nothing runs, or
the number of bytes of the job's input, and these.
"""

from __future__ import annotations

import re
import sys

from clstr.transport import KILL_GRACE, Command

_MAGIC = "clstr1"

_BEGUN = ("clstr-begun-", "7d1c5b0f3a94e26d")
"""The word from the node, in two halves: a device that only echoes its command line must not seem to say it."""

MARKER = "".join(_BEGUN).encode() + b"\n"
"""What the wrapper prints on stdout right before the job runs; what stands before it is the start-up files'. For a
guarded job the number of its first process stands before the newline."""

_GUARDS = ("clstr-guards-", "b2c64e0d95f1a837")
"""The guard's word, in two halves for the same reason."""

# --- for /bin/sh on the node; $1 is the session leader and process group. No newline and no `!`, for csh. ---

# Fractions of a second are an extension; a `sleep` without them waits longer, never shorter.
_PAUSES = " ".join([".1", ".9", *["1"] * (int(KILL_GRACE) - 1)])

# Whether the group has a live member besides this process. Without /proc nobody knows, and the grace is waited out.
_OTHERS = (
    'others() { test "$me" || return 0; '
    "for stat in /proc/[0-9]*/stat; do "
    "read -r line <$stat || continue; "
    "set -- $1 ${line%% *} ${line##*) }; "  # leader, then pid, state, parent, group: proc(5)
    "case $3 in [ZX]) continue;; esac; "
    "test $5 = $1 || continue; test $2 = $me || return 0; "
    "done; return 1; }; "
)
_TERMINATE = (
    f"{_OTHERS}kill -TERM -$1 || kill -TERM $1; "
    "read -r me line </proc/self/stat; "
    f"for pause in {_PAUSES}; do sleep $pause || sleep 1; kill -0 $1 || others $1 || exit 0; done; "
    "kill -KILL -$1 || kill -KILL $1"
)

# A job may signal its whole group as its first act: the watcher is born deaf to that, but for zsh, whose
# background processes ignore nothing at first. So this stands before the watcher and in it.
_DEAF = 'trap "" HUP INT QUIT PIPE ALRM TERM USR1 USR2'

# Above 128 is not the end of input but bash's TMOUT, which hardened sites set and make readonly.
_UNTIL_LET_GO = "while read -r clstr_l || test $? -gt 128; do :; done"

_WATCH = f"( {_DEAF}; {{ {_DEAF}; {_UNTIL_LET_GO}; kill -0 $1 || exit 0; {_TERMINATE}; }} <&3 >/dev/null 2>&1 & ) 3<&0"

# Keeps $1 bytes of its input in a file and prints the file's name, or nothing where the node cannot hold them. `head`
# and no more of the shell, which reads byte by byte; of an input that ends early it says nothing, but wc does.
_SPOOL = (
    'umask 077; f=$(mktemp "${TMPDIR:-/tmp}/clstr.XXXXXX" 2>/dev/null || mktemp /tmp/clstr.XXXXXX) || f=; '
    'if test "$f" && head -c $1 >"$f"; then '
    'test $(wc -c <"$f") -eq $1 && printf %s "$f" && exit 0; rm -f "$f"; exit 1; fi; '
    'test -z "$f" || rm -f "$f"; echo "clstr: the input of the job cannot be kept on this node" >&2'
)
_UNLINK = 'rm -f "$1"'

# For a shell that cannot read the job unharmed: reads it, sets the watcher up and prints, again without an empty
# line, `env` and the names (`NAME=` where the value, printed as `-`, is empty), `job` and how each line comes, the file
# that is the job's input, the values, the two about the directory, the lines.
_FETCH = (
    'LC_ALL=C; nl=$(printf "\\nx"); nl=${nl%x}; env=env; job=job; out=; f=/dev/null; '
    'take() { IFS= read -r line || exit 1; }; keep() { take; out="$out$line$nl"; }; '
    f"spool() {{ {_SPOOL}; }}; "
    f'take; test "$line" = {_MAGIC} || exit 1; '
    "take; n=$line; while test $n -gt 0; do take; name=${line%%=*}; line=${line#*=}; "
    'test "$line" || { name=$name=; line=-; }; env="$env $name"; out="$out$line$nl"; n=$((n - 1)); done; '
    'take; out="$out${line%${line#?}}$nl"; keep; set=$out; out=; '
    'take; n=$line; while test $n -gt 0; do take; job="$job $line"; keep; n=$((n - 1)); done; '
    'take; test "$line" = . || { f=$(spool $line) || exit 1; '
    'test "$f" || { f=/dev/null; job="job 0"; out="exit 1$nl"; }; }; '
    f'{_WATCH}; printf %s "$env$nl$job$nl$f$nl$set$out"'
)


# The guard, for /bin/sh. The first processes of this connection's sessions: each leads a session of its own, has the
# guard's parent, which is sshd or who inherits from it, the wrapper in its command line (the pattern is not the word
# that it finds) and sshd's variable in its environment. The guard's own parent is read behind the other's.
_FIRST_ONES = (
    "all() { for dir in /proc/[0-9]*; do read -r line <$dir/stat || continue; "
    "set -- ${dir#/proc/} ${line##*) }; "  # pid, then state, parent, group, session
    "test $1 = $5 && test -O $dir || continue; "
    "test $3 = $PPID || { parent=$3; read -r line </proc/$$/stat; set -- $1 ${line##*) }; test $parent = $3; } || "
    "continue; "
    "grep -q clst[r]_j $dir/cmdline && ours $dir && echo $1; done; }; "
)
# There is none where it could not tell them from others (sshd knows no address of its client and so has one name for
# all connections), or might not know them: behind a forced command, and where a session does not begin with what was
# asked for. Nor is there one where all jobs have watchers: under a csh and fish.
# Whom it was told to terminate is not asked a second time at the end of its input; a little later the number may be
# another's.
_GUARD = (
    f"{_DEAF}; exec 2>/dev/null; "
    'ours() { tr "\\000" "\\012" <$1/environ | grep -Fqx "SSH_CONNECTION=$SSH_CONNECTION"; }; '
    'case "$SSH_CONNECTION" in ""|UNKNOWN*) exit 1; esac; case "$SHELL" in *csh|*/fish) exit 1; esac; '
    'test -z "$SSH_ORIGINAL_COMMAND" || exit 1; '
    "read -r line </proc/$$/stat; set -- ${line##*) }; "  # state, parent, group, session
    'test "$4" = $$ && test -O /proc/$$ && ours /proc/$$ || exit 1; '
    f"{_FIRST_ONES}"
    f"end() {{ ( set -- $1; kill -0 $1 || exit 0; {_TERMINATE} ) & }}; "
    'new() { for pid in $(all); do case " $seen " in *" $pid "*) continue;; esac; '
    'seen="$seen $pid"; end $pid; done; }; '
    'age() { read -r up line </proc/uptime; up=${up%.*}; test $((up - told)) -le 9 || seen=; }; seen=; told=0; '
    f'echo "{_GUARDS[0]}""{_GUARDS[1]} $$"; exec >/dev/null; '
    'while read -r pid || test $? -gt 128; do test -z "$pid" || { age; told=$up; seen="$seen $pid"; end $pid; }; done; '
    f'age; new; test "$seen" || exit 0; for pause in {_PAUSES}; do sleep $pause || sleep 1; new; done; wait'
)


def _in_double_quotes(script: str) -> str:
    return '"' + re.sub(r'([\\"$`])', r"\\\1", script) + '"'


def _in_backslashes(script: str) -> str:
    return re.sub(r"([^A-Za-z0-9_])", r"\\\1", script)


# --- the login shell's parts ------------------------------------------------------------------------------

# LC_ALL=C because bash's `read` takes a newline after a cut multibyte character for a part of that character.
# ksh93 lets `wait` wait for what its subshells put into the background, and its `read` does not tell TMOUT from the
# end: there /bin/sh starts the watcher.
_POSIX = f"""\
until LC_ALL=C IFS= read -r clstr_l; do test $? -gt 128 || exit 1; done
test "$clstr_l" = {_MAGIC} || exit 1
read -r clstr_n || exit 1
while test "$clstr_n" -gt 0; do
LC_ALL=C IFS= read -r clstr_l || exit 1
export "$clstr_l"
clstr_n=$((clstr_n - 1))
done
read -r clstr_h && LC_ALL=C IFS= read -r clstr_d && read -r clstr_n || exit 1
clstr_j=
while test "$clstr_n" -gt 0; do
read -r clstr_k && LC_ALL=C IFS= read -r clstr_l || exit 1
test "$clstr_k" -lt 1 || clstr_j="$clstr_j
"
test "$clstr_k" -gt 1 || clstr_j="$clstr_j$clstr_l"
clstr_n=$((clstr_n - 1))
done
read -r clstr_l || exit 1
clstr_i=/dev/null
test "$clstr_l" = . || clstr_i=$(/bin/sh -c {_in_double_quotes(_SPOOL)} sh "$clstr_l") || exit 1
clstr_g=${{clstr_h#?}}
clstr_h=${{clstr_h%"$clstr_g"}}
case $clstr_j in *exec*|*eval*|*source*|*.\\ *) clstr_g=; esac
if test "$clstr_g" && {{ kill -0 "$clstr_g" && kill -0 "$PPID"; }} 2>/dev/null; then :
else clstr_g=
if test "${{KSH_VERSION-}}"; then /bin/sh -c {_in_double_quotes(_WATCH)} sh $$
else ( {_DEAF}; {{ {_DEAF}; {_UNTIL_LET_GO}
kill -0 $$ && exec /bin/sh -c {_in_double_quotes(_TERMINATE)} sh $$
}} <&3 >/dev/null 2>&1 & ) 3<&0
fi || exit 1
fi
test "$clstr_i" || {{ clstr_i=/dev/null; clstr_j="exit 1"; }}
exec <"$clstr_i"
test "$clstr_i" = /dev/null || /bin/sh -c {_in_double_quotes(_UNLINK)} sh "$clstr_i"
echo "{_BEGUN[0]}""{_BEGUN[1]}${{clstr_g:+ $$}}"
test "$clstr_h" = - || cd || exit 1
test "$clstr_d" = . || cd "$clstr_d" || exit 1
eval "unset clstr_d clstr_g clstr_h clstr_i clstr_j clstr_k clstr_l clstr_n;$clstr_j" """


def _in_lines(*commands: str) -> str:
    return "$clstr_l:q".join(_in_backslashes(command) for command in commands)


# A csh cannot read the job unharmed, and of its loops only a `foreach` in an eval works in a -c text. Inside
# "`...`" it substitutes twice: ${clstr_d}clstr_s is $clstr_s by the second time. Its `exit` does not end a -c text,
# but an `exec` does; the subshell comes there too, after an `exit` of the job. No bare double quote (see TEXT).
# In the csh that is no tcsh (NetBSD's, OpenBSD's, Debian's `csh`) an eval does not pipe a builtin's output.
_NO_TCSH = 'echo "this csh is not a tcsh and would garble the job (try --no-leash)" >&2; exit 1'
_CSH = f"""\
if ( $?tcsh == 0 ) exec /bin/sh -c {_in_backslashes(_NO_TCSH)}
set clstr_s = {_in_backslashes(_FETCH)}
set clstr_d = \\$
eval {_in_backslashes('set clstr_x = ( "`/bin/sh -c ${clstr_d}clstr_s:q sh $$`" )')}
if ( $#clstr_x < 5 ) exec /bin/sh -c exit\\ 1
set clstr_n = ( $clstr_x[1] )
set clstr_k = ( $clstr_x[2] )
set clstr_f = $clstr_x[3]:q
repeat 3 shift clstr_x
shift clstr_n
shift clstr_k
set clstr_s = {
    _in_lines(
        "foreach clstr_i ( $clstr_n )",
        "if ( $clstr_i =~ *= ) setenv $clstr_i:s/=//",
        "if ( $clstr_i:s/=// == $clstr_i ) setenv $clstr_i $clstr_x[1]:q",
        "shift clstr_x",
        "end",
    )
}
eval $clstr_s:q
set clstr_h = $clstr_x[1]:q
set clstr_d = $clstr_x[2]:q
repeat 2 shift clstr_x
set clstr_j =
set clstr_s = {
    _in_lines(
        "foreach clstr_i ( $clstr_k )",
        "if ( $clstr_i > 0 ) set clstr_j = $clstr_j:q$clstr_l:q",
        "if ( $clstr_i < 2 ) set clstr_j = $clstr_j:q$clstr_x[1]:q",
        "shift clstr_x",
        "end",
    )
}
eval $clstr_s:q
echo {_BEGUN[0]}\\{_BEGUN[1]}
if ( x$clstr_h:q != x- ) chdir
if ( $status ) exec /bin/sh -c exit\\ 1
if ( x$clstr_d:q != x. ) chdir $clstr_d:q
if ( $status ) exec /bin/sh -c exit\\ 1
set clstr_s = {
    _in_backslashes("unset clstr_d clstr_f clstr_h clstr_i clstr_j clstr_k clstr_l clstr_n clstr_s clstr_x")
}
( if ( $clstr_f:q != /dev/null ) /bin/sh -c {
    _in_backslashes(_UNLINK)
} sh $clstr_f:q ; eval $clstr_s:q$clstr_l:q$clstr_j:q ) < $clstr_f:q
exec /bin/sh -c exit\\ $status
"""

# In one line and without single quotes (see TEXT). fish's `read` drops what is not UTF-8.
_FISH = "; ".join(
    f"""\
set -l clstr_x (/bin/sh -c {_in_double_quotes(_FETCH)} sh $fish_pid)
test (count $clstr_x) -ge 5
or exit 1
set -l clstr_n (string split " " $clstr_x[1])
set -l clstr_k (string split " " $clstr_x[2])
set -e clstr_n[1]
set -e clstr_k[1]
set -l clstr_f $clstr_x[3]
set -e clstr_x[1 2 3]
for clstr_i in $clstr_n
set -l clstr_v $clstr_x[1]
string match -q "*=" $clstr_i
and set clstr_v ""
set -gx (string replace = "" $clstr_i) $clstr_v
set -e clstr_x[1]
end
set -l clstr_h $clstr_x[1]
set -l clstr_d $clstr_x[2]
set -e clstr_x[1 2]
set -l clstr_j ""
for clstr_i in $clstr_k
test $clstr_i -lt 1
or set clstr_j $clstr_j\\n
test $clstr_i -gt 1
or set clstr_j $clstr_j$clstr_x[1]
set -e clstr_x[1]
end
echo "{_BEGUN[0]}""{_BEGUN[1]}"
test $clstr_h = -
or cd
or exit 1
test $clstr_d = .
or cd $clstr_d
or exit 1
set -e clstr_d clstr_h clstr_i clstr_k clstr_n clstr_x
begin
test $clstr_f = /dev/null
or /bin/sh -c {_in_double_quotes(_UNLINK)} sh $clstr_f
eval "set -e clstr_f clstr_j"\\n$clstr_j
end <$clstr_f
exit $status
""".splitlines()
)

# fish's part is a word to the others, what follows it a word to fish; csh's part is a word to POSIX shells.
TEXT = f"""\
true '\\''; {_FISH}; '
test $?shell = 1 && set clstr_l = "\\
"
test $?shell = 1 && goto clstr_csh
test $?shell = 1 && : "
clstr_csh:
{_CSH}"
{_POSIX}#'
"""
WRAPPER: bytes = TEXT.encode()
"""The command of every session, for whatever shell the login shell is; TEXT for asyncssh, whose log would take bytes
apart for each session, even where nobody logs."""


GUARD = f"exec /bin/sh -c '{_GUARD}'"
"""The command of a guard's session, under any login shell; without a newline, ``'`` or ``!``."""

_FILE_SYSTEM = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""What os.fsencode does, without its detours: this is done for every job."""


# --- the client's side ------------------------------------------------------------------------------------


def arm(command: Command, guard: bytes = b"") -> bytes:
    """What the client writes to the session's standard input, and the job's input behind it; then it keeps that open.

    ``guard`` is what ``guard_in`` found, where the session's connection has a guard.

    A directory that begins with ``~/`` is below the home directory. Raises ValueError for a name of the environment
    or a directory that is empty, or for such a newline or NUL, or for one in a value, or for a NUL in the job.
    """
    home, directory = _place(command.directory)
    settings = [b"%b=%b" % (_encoded(name), _encoded(value)) for name, value in command.environment]
    lines = [_MAGIC.encode(), b"%d" % len(settings), *settings, home + guard, directory]
    names = all(name for name, _ in command.environment)
    if not names or not all(lines) or b"\n".join(lines).count(b"\n") >= len(lines):
        raise ValueError("empty, or with a newline: a setting or the directory of a job")
    size = 0 if command.input is None else command.input.size
    lines += [*_without_empty_lines(command.line), b"%d" % size if size else b".", b""]
    said = b"\n".join(lines)
    if b"\0" in said:
        raise ValueError("a NUL in a job, its settings or its directory")
    return said


def _encoded(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode(*_FILE_SYSTEM)


def _place(directory: bytes | None) -> tuple[bytes, bytes]:
    """Whether to enter the home directory first, and the directory to enter then.

    A relative one gets ``./`` before it: no CDPATH, and ``-`` is a name like any other.
    """
    if directory is None:
        return b"-", b"."
    if directory == b"~" or directory.startswith(b"~/"):
        return b"~", b"./" + directory[2:]
    return b"-", directory if directory.startswith(b"/") else b"./" + directory


def _without_empty_lines(text: bytes) -> list[bytes]:
    """The text as WRAPPER wants it: how many lines, and each as two that are not empty."""
    said: list[bytes] = []
    for number, line in enumerate(text.split(b"\n")):
        if line:
            said += [b"1" if number else b"0", line]
        elif number:
            said += [b"2", b"-"]
    return [b"%d" % (len(said) // 2), *said]


def bare(command: Command) -> bytes:
    """The command without a leash, as ``ssh`` would send it; its environment cannot be set then.

    The directory is written so that POSIX shells, csh and fish read it alike; ``exit`` and a failed ``cd`` do not
    end what csh was given, but an ``exec`` does.
    """
    if command.directory is None:
        return command.line
    home, directory = _place(command.directory)
    quoted = re.sub(rb"([^A-Za-z0-9_./\x80-\xff-])", rb"\\\1", directory)
    if home == b"~":
        quoted = b"~" + quoted[1:]
    return b"ls -d %s/. >/dev/null || exec false\ncd %s || exit 1\n%s" % (quoted, quoted, command.line)


_WORD = MARKER[:-1]
_LONGEST = len(_WORD) + 12
"""Bytes of the word with a process number and a newline, at most."""

_WORDS = re.compile(re.escape(_WORD) + rb"(?: (\d{1,10}))?\n")
_GUARD_WORDS = re.compile("".join(_GUARDS).encode() + rb" (\d{1,10})\n")


class Marker:
    """Looks for the word that the job begins in a stream that comes in pieces, split anywhere."""

    def __init__(self) -> None:
        self._tail = b""  # what may be the word's first bytes
        self.leader = b""
        """The number of the job's first process, once the word was found, if a guard watches it."""

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """The bytes that certainly stand before the word, whether it was found, and what stands behind it.

        To be asked no more once it was found.
        """
        heard = self._tail + data
        found = _WORDS.search(heard)
        if found is not None:
            self._tail = b""
            self.leader = found[1] or b""
            return heard[: found.start()], True, heard[found.end() :]
        held = self._held(heard)
        self._tail = heard[held:]
        return heard[:held], False, b""

    @staticmethod
    def _held(heard: bytes) -> int:
        """Where what may be the word begins."""
        whole = heard.rfind(_WORD, -_LONGEST)
        if whole >= 0 and re.fullmatch(rb"(?: \d{0,10})?", heard[whole + len(_WORD) :]):
            return whole
        return next(len(heard) - n for n in range(min(len(heard), len(_WORD)), -1, -1) if heard.endswith(_WORD[:n]))


def guard_in(heard: bytes) -> bytes:
    """The process number that a guard has told, for ``arm``; empty when it has not yet."""
    found = _GUARD_WORDS.search(heard)
    return b"" if found is None else found[1]


def terminate(leader: bytes) -> bytes:
    """What a guard is told to terminate the job of this first process."""
    return leader + b"\n"
