"""What is wrong with a command line, in one line: tyro says it in a box of many."""

import re

# What tyro makes of a validation error in a section of the config.
_INVALID_FIELD = re.compile(
    r"Error parsing \S*options\.(?P<section>\S+): \d+ validation errors? for \w+ "
    r"(?:(?P<field>[a-z][\w.]*) )?(?P<reason>[A-Z].*?) \[type=\w+, input_value=(?P<value>.*?), input_type="
)


def one_line(box: str) -> str:
    """What a box of tyro says before its first rule, without frame and title, and the options it suggests."""
    rows = [row for line in box.splitlines() if not line.startswith(("╭", "╰")) and (row := line.strip("│ "))]
    rules = [i for i, row in enumerate(rows) if not row.strip("─-")]
    if not box.startswith("╭"):  # without line drawing, title and rule stand where the frame would be
        rows, rules = rows[2:], [i - 2 for i in rules[1:]]
    message = " ".join(rows[: rules[0] if rules else None])
    if invalid := _INVALID_FIELD.search(message):
        reason = invalid["reason"].removeprefix("Value error, ")
        if invalid["field"] is None:
            return f"{invalid['section']}: {reason}"
        return f"{invalid['section']}.{invalid['field']}={invalid['value']}: {reason}"
    _, _, hint = " ".join(rows).partition("Perhaps you meant:")
    suggested = list(dict.fromkeys(word for word in hint.split() if re.match("--[a-z]", word) and word != "--help"))
    return f"{message}; perhaps you meant {' or '.join(suggested)}?" if suggested else message
