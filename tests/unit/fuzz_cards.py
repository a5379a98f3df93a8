"""Coverage-guided fuzzing of the device models: ``make fuzz``, or this program with libFuzzer's arguments.

    python tests/unit/fuzz_cards.py epic100 -max_total_time=600

Half of the inputs, by their first byte, go to a card that takes messages without the library in C.

Atheris is installed by ``make fuzz`` alone: it has no builds for every Python.
"""

import sys

import atheris  # type: ignore[reportMissingImports]

with atheris.instrument_imports(include=["nooks.hardware"]):  # type: ignore[reportAttributeAccessIssue]
    from test_hardware_hostile import attack_card


def main() -> None:
    """Until something is found, or the time is over."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: attack_card(name, data[1:], in_python=bool(data[:1] and data[0] & 1)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
