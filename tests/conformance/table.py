"""What the scripts share: a table of cases, each run on its own, one line for each, and a sum at the end."""

import sys

# The longest that a case waits for anything. It turns a hang into a failure, and is no measure of speed.
DEADLINE = 60.0


class Wrong(Exception):
    """What was seen is not what is expected."""


class Deviation(Wrong):
    """The same, of what the server has done, and not of what it has left undone."""


def run(cases, known=()):
    """Runs `(name, function)` pairs, prints what became of each, and returns the exit code.

    `known` says of some, by the first word of their names, why they fail: they have to, or they are to be taken out of it.
    """
    known, failed = dict(known), 0
    for name, case in cases:
        reason = known.get(name.split(" ")[0])
        try:
            seen = case()
            if reason:
                raise Wrong("it passes now, and is said to fail")
            print(f"ok      {name}{f': {seen}' if seen else ''}", flush=True)
        except (Wrong, OSError) as why:
            if reason and isinstance(why, Deviation):
                print(f"known   {name}: {why} ({reason})", flush=True)
                continue
            failed += 1
            print(f"FAILED  {name}: {why or type(why).__name__}", flush=True)
    print(f"{len(cases)} cases, {failed} failed", flush=True)
    return 1 if failed or not cases else 0


def address_of(argument):
    host, _, port = argument.rpartition(":")
    return host, int(port)


def selected(cases, arguments):
    """Those whose names begin with one of the arguments; without any, all."""
    return [case for case in cases if not arguments or case[0].startswith(tuple(arguments))]


def main(cases, arguments, known=()):
    sys.exit(run(selected(cases, arguments), known))
