"""The picture in docs/demo.md: `python -m tests.demo.screenshot docs/demo.png models:/NAME@champion`."""

import sys
from pathlib import Path

from tests.demo.browser import demo, opened


def main(out: Path, model: str) -> None:
    """Restore an example in the real page and photograph that."""
    with demo(Path.cwd(), "--model", model) as address, opened(address) as (page, _):
        page.locator("#examples button img").nth(3).click()
        page.locator("#preview img").wait_for()
        page.locator("#restore").click()
        page.locator("#status", has_text=" s.").wait_for()
        page.wait_for_timeout(1500)  # the pictures fade in
        page.screenshot(path=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
