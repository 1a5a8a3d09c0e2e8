"""docs/paper_to_code: each line of the tables stands where it says, and says there what it quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "paper_to_code").glob("*.md"))


def rows(page):
    """(file, line, quoted code) of every row that names a place."""
    found = []
    for text in page.read_text(encoding="utf-8").splitlines():
        place = re.search(r"`(src/[\w/]+\.py):(\d+)`", text)
        if not text.startswith("|") or place is None:
            continue
        cells = re.split(r"(?<!\\)\|", text.strip().strip("|"))
        quoted = re.fullmatch(r"\s*(`+)\s?(.*?)\s?\1\s*", cells[-1])
        assert quoted is not None, f"{page.name}: the last cell quotes no code: {text}"
        found.append((place[1], int(place[2]), quoted[2].replace("\\|", "|")))
    return found


def test_there_is_a_page_for_each_paper():
    assert {page.stem for page in PAGES} == {"vit", "swin", "convnext", "roadmap"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_quotes_the_line_it_names(page):
    found = rows(page)
    assert len(found) >= 8
    wrong = []
    for file, number, code in found:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        line = lines[number - 1] if number <= len(lines) else ""
        if code not in line:
            now = [i for i, other in enumerate(lines, start=1) if code in other]
            wrong.append(f"{file}:{number} does not say `{code}`; it stands in line {now or 'none'}")
    assert not wrong, "\n".join(wrong)
