"""The README's tables are what the committed results say."""

import re

from benchmarks.tables import README, rewritten


def test_the_tables_are_drawn_from_the_committed_results() -> None:
    text = README.read_text()
    assert rewritten(text) == text


def test_the_readme_holds_one_test_command_and_one_that_generates() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert sum("guidegen-shard --n 4" in block and "pip install" in block for block in blocks) == 1
    assert sum("pytest" in block and "pip install" in block for block in blocks) == 1
