"""The `plumbline` executable: Django's commands, with errors as plain sentences.

Kept to syntax that old Pythons parse, so that they meet a sentence instead of a SyntaxError.
"""

import os
import sys

MINIMUM_PYTHON = (3, 11)


def main():
    if sys.version_info < MINIMUM_PYTHON:
        sys.exit(
            "Plumbline needs Python %d.%d or newer, and this is Python %d.%d. "
            "Install a newer Python and start again with it." % (MINIMUM_PYTHON + tuple(sys.version_info[:2]))
        )
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "plumbline.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError, ProgrammingError

    try:
        if sys.argv[1:] in ([], ["--help"], ["-h"]):
            print(overview())
        else:
            execute_from_command_line(sys.argv)
    except (OperationalError, ProgrammingError) as error:
        if not lacks_tables(error):
            raise
        sys.exit(
            "plumbline: The database has no tables yet, or those of an older version (%s). "
            "Start `plumbline up`, or run `plumbline migrate`." % str(error).splitlines()[0]
        )
    except ImproperlyConfigured as error:
        sys.exit("plumbline: %s" % error)
    except KeyboardInterrupt:
        sys.exit(130)


COMMANDS = (
    ("up", "doctor", "demo", "simulate"),
    ("import_prompts", "import_checks", "snapshot", "export"),
    ("signin_link", "token"),
)


def overview():
    """Our own commands, a sentence each."""
    import django
    from django.core.management import get_commands, load_command_class

    django.setup()
    apps = get_commands()
    lines = ["Usage: plumbline COMMAND [OPTIONS]", ""]
    for group in COMMANDS:
        lines += ["  %-16s%s" % (name, load_command_class(apps[name], name).help) for name in group]
        lines.append("")
    lines.append("`plumbline COMMAND --help` names a command's options, `plumbline help` all commands, Django's too.")
    return "\n".join(lines)


def lacks_tables(error):
    """Whether a table or a column is missing: SQLite says so in words, PostgreSQL by a code."""
    missing = str(error).startswith(("no such table", "no such column"))
    return missing or getattr(error.__cause__, "sqlstate", "") in ("42P01", "42703")


if __name__ == "__main__":
    main()
