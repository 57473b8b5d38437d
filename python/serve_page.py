"""The page of ``xquant serve`` in headless Chromium: send, stop, regenerate, overflow, thoughts.

    python python/serve_page.py http://127.0.0.1:8080 --chromium /usr/bin/chromium --out shots

Needs the playwright package; pictures of each step go into a folder, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

LONG = "Tell me a very long story about a lighthouse, with many chapters."

THOUGHTS = [
    [{"reasoning_content": "Riv"}, {"reasoning_content": "ers?"}, {"content": "Salt."}],
    [{"content": part} for part in ("<thi", "nk>\nRiv", "ers?\n</th", "ink>\n\nSalt", ".")],
]


def stream(deltas: list[dict[str, str]]) -> str:
    events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


def answer(deltas: list[dict[str, str]]) -> Any:
    """What answers a request in place of the server."""
    return lambda route: route.fulfill(body=stream(deltas))


def wait_for(condition: Any, what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"failed: {what}")
        time.sleep(0.05)
    print(f"ok: {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path, default=Path("shots"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(args.url)

        def texts(role: str) -> list[str]:
            return page.locator(f"article.{role}").all_text_contents()

        def send(text: str) -> None:
            page.fill("#text", text)
            page.press("#text", "Enter")

        def busy() -> bool:
            return page.text_content("#send") == "Stop"

        def shot(name: str) -> None:
            page.screenshot(path=args.out / f"{name}.png")

        wait_for(lambda: "MiB" in (page.text_content("#figures") or ""), "figures are shown")
        send("Why is the sea salty? <b>One</b> sentence.")
        wait_for(lambda: any(texts("assistant")) and not busy(), "a message is answered")
        assert texts("user") == ["Why is the sea salty? <b>One</b> sentence."]
        shot("answered")

        send(LONG)
        wait_for(
            lambda: len(texts("assistant")) == 2 and len(texts("assistant")[1]) > 40, "streams"
        )
        assert busy()
        shot("streaming")
        page.click("#send")
        wait_for(lambda: not busy(), "stops", 5)
        stopped = texts("assistant")[1]
        time.sleep(1)
        assert texts("assistant")[1] == stopped

        page.click("#again")
        wait_for(lambda: busy() and any(texts("assistant")[1:]), "regenerates")
        assert len(texts("user")) == 2 and len(texts("assistant")) == 2
        page.click("#send")
        wait_for(lambda: not busy(), "stops again", 5)

        for turn in range(12):  # past the end of a small context
            send(f"Turn {turn}. " + "Repeat every word of this sentence, please. " * 12)
            wait_for(lambda: not busy(), f"turn {turn}")
            assert not texts("error"), texts("error")
            if texts("note") and turn > 4:
                break
        assert len(texts("note")) == 1, "a chat past the context must say so, once"
        print("said:", texts("note")[0])
        shot("full")

        answered = len(texts("assistant"))
        send("word " * 9000)
        wait_for(lambda: len(texts("error")) == 1 and not busy(), "a message too long is refused")
        assert texts("unsent") and page.input_value("#text").startswith("word word")
        assert len(texts("note")) == 1, "a message that was refused must leave out nothing more"
        send("And then?")
        wait_for(lambda: len(texts("assistant")) > answered and not busy(), "and the chat goes on")

        send(LONG)
        wait_for(lambda: busy() and any(texts("assistant")[answered + 1 :]), "is writing")
        page.click("#new")
        with page.expect_request("**/v1/chat/completions") as asked:
            send("Hello")
        wait_for(lambda: any(texts("assistant")) and not busy(), "a new chat goes on")
        roles = [one["role"] for one in asked.value.post_data_json["messages"]]
        assert roles == ["user"], "a chat that was left must not go into the next one"
        shot("new")

        for deltas in THOUGHTS:  # as a server may send them
            page.click("#new")
            page.route("**/v1/chat/completions", answer(deltas))
            send("Think.")
            wait_for(lambda: texts("assistant") == ["Salt."] and not busy(), "thoughts are apart")
            thoughts = page.locator("details > div")
            assert thoughts.text_content() == "Rivers?" and not thoughts.is_visible()
            page.click("summary")
            assert thoughts.is_visible()
            shot("thoughts")
            page.unroute("**/v1/chat/completions")
        browser.close()
        assert not faults, faults
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
