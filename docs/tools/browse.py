"""Open the built documentation in a headless Chromium, as a reader would, and look for what is broken.

    mkdocs build --strict && python docs/tools/browse.py        # about half a minute
    python docs/tools/browse.py --screenshots /tmp/pages        # and a picture of every page, wide and narrow

Needs `pip install gradtx[docs]` and Chromium with its driver (Debian: `apt-get install chromium chromium-driver`). It visits every
page and clicks through the whole navigation. Broken are: a link or anchor that leads nowhere, a picture that is not there, an
error in the browser's console, a request to another host, a formula that is not set, a page wider than a telephone, a search
that does not find `adamw`, and a public name that is missing in the reference.
"""

import argparse
import collections
import functools
import html.parser
import http.server
import json
import pathlib
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import reference

ROOT = pathlib.Path(__file__).parents[2]
WIDE, NARROW = (1400, 1000), (400, 850)
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-default-apps --disable-dev-shm-usage --hide-scrollbars""".split()

# What a page says of itself: formulas without extent or with errors, pictures that did not load, raw LaTeX, its width.
LOOK = """
const shown = e => { const box = e.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
const text = [];
const walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
while (walker.nextNode())
    if (!walker.currentNode.parentElement.closest('pre, code, script, math, title')) text.push(walker.currentNode.data);
return {
    title: document.title,
    formulas: document.querySelectorAll('article math').length,
    hidden: [...document.querySelectorAll('article math')].filter(e => !e.closest('details') && !shown(e)).length,
    errors: document.querySelectorAll('article merror').length,
    font: document.querySelector('article math') ? [...document.fonts].some(f => /Formulas/.test(f.family) && f.status == 'loaded') : true,
    pictures: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    latex: text.filter(t => /\\$[^$]+\\$|\\\\[a-z]+\\{|\\\\\\(/.test(t)),
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
"""


# The links to pages, from top to bottom: element, title, address, whether it is marked as the one that is open.
NAVIGATION = """
return [...document.querySelectorAll('.md-nav--primary a.md-nav__link[href]')]
    .filter(a => !a.closest('.md-nav--secondary') && !a.getAttribute('href').startsWith('#'))
    .map(a => [a, a.innerText.trim(), a.href.split('#')[0], a.classList.contains('md-nav__link--active')]);
"""


class Page(html.parser.HTMLParser):
    """The ids of a page, its links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.formulas = collections.Counter(), [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.formulas += tag == "math"
        if found.get("id"):
            self.ids[found["id"]] += 1
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif found.get("src") or (tag == "link" and found.get("href") and found.get("rel") != "canonical"):
            self.loads.append(found.get("src") or found["href"])


def crawl(site):
    """Problems of links and anchors, from the files alone; the pages; how many links were followed."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    problems, followed = [], 0
    for path, page in pages.items():
        for target in page.links + page.loads:
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                if target in page.loads:
                    problems.append(f"{path.relative_to(site)}: loads {target} from another host")
                continue
            followed += 1
            start = site if url.path.startswith("/") else path.parent
            file = (start / urllib.parse.unquote(url.path).lstrip("/")).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            fragment = urllib.parse.unquote(url.fragment)
            if not file.is_file():
                problems.append(f"{path.relative_to(site)}: {target} leads nowhere")
            elif fragment and file in pages and not pages[file].ids[fragment]:
                problems.append(f"{path.relative_to(site)}: {target}: there is no such anchor")
    return problems, pages, followed


def undocumented(site, pages):
    """Public names without an entry in the reference."""
    for path, _, _, names in reference.contents():
        page = pages.get((site / path).with_suffix(".html"))
        for name in names:
            if page is None or not page.ids[name]:
                yield f"{path}: no entry for {name}"


@functools.cache
def serve(site):
    """The address of a server of the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def start(profile, *more):
    """A browser, or the word of what is missing."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        sys.exit(
            "Chromium and its driver are needed. Debian: apt-get install --no-install-recommends chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f"--user-data-dir={profile}", "--window-size={},{}".format(*WIDE), *more]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Reader:
    """A browser at the site, and the problems it has met."""

    def __init__(self, driver, site, screenshots=None):
        self.driver, self.site, self.home, self.screenshots = driver, site, serve(site), screenshots
        self.problems, self.visited = [], set()

    def wait(self, condition, seconds=10):
        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(condition)

    def heard(self, where):
        """What the console and the network said since the last time."""
        for entry in self.driver.get_log("browser"):
            if entry["level"] == "SEVERE":
                self.problems.append(f"{where}: console: {entry['message']}")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith((self.home, "data:", "blob:", "chrome:", "about:")):
                    self.problems.append(f"{where}: a request to {url}")
            elif message["method"] == "Network.responseReceived":
                response = message["params"]["response"]
                if response["status"] >= 400:
                    self.problems.append(f"{where}: {response['status']} for {response['url']}")

    def look(self, name, formulas):
        """Whether the page that is open looks as it should; how many formulas the file has."""
        seen = self.driver.execute_script(LOOK)
        for what in ("hidden", "errors", "pictures", "latex"):
            if seen[what]:
                self.problems.append(f"{name}: {what}: {seen[what]}")
        if seen["formulas"] != formulas:
            self.problems.append(f"{name}: {formulas} formulas in the file, {seen['formulas']} on the page")
        if not seen["font"]:
            self.problems.append(f"{name}: the font of its formulas was not loaded")
        if seen["wider"] > 1:
            self.problems.append(f"{name}: {seen['wider']} pixels wider than the window")

    def settle(self):
        """Until the page has loaded what it loads, its fonts too."""
        self.driver.execute_async_script("document.fonts.ready.then(() => arguments[0]())")

    def visit(self, name, page):
        """The page that is open, in a wide window and in a narrow one."""
        for size in (WIDE, NARROW):
            self.driver.set_window_size(*size)
            self.settle()
            self.look(f"{name} at {size[0]}", page.formulas)
            if self.screenshots:
                file = self.screenshots / f"{name.replace('/', '-').removesuffix('.html')}-{size[0]}.png"
                self.driver.save_screenshot(str(file))
        self.driver.set_window_size(*WIDE)
        self.heard(name)
        self.visited.add(name)

    def click_through(self, pages):
        """Every link of the navigation, one after the other, with the mouse; and a look at where it leads."""
        self.driver.get(self.home + "index.html")
        titles = [title for _, title, _, _ in self.driver.execute_script(NAVIGATION)]
        if "" in titles or len(titles) < 20:
            self.problems.append(f"the navigation shows {titles}")
        for i in range(len(titles)):
            link, title, target, _ = self.driver.execute_script(NAVIGATION)[i]
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
            link.click()
            self.wait(lambda d, target=target: d.current_url.split("#")[0] == target)
            active = [title for _, title, _, marked in self.driver.execute_script(NAVIGATION) if marked]
            name = target.removeprefix(self.home)
            if active != [title]:
                self.problems.append(f"{name}: the navigation marks {active}, and not {title}")
            self.visit(name, pages[self.site / name])
        return len(titles)

    def search(self, word, expected):
        """Type a word into the search box, and follow a result."""
        self.driver.get(self.home + "index.html")
        box = self.driver.find_element(By.CSS_SELECTOR, ".md-search__input")
        box.click()
        box.send_keys(word)
        found = lambda d: [a for a in d.find_elements(By.CSS_SELECTOR, ".md-search-result__link") if a.is_displayed()]  # noqa: E731
        try:
            results = self.wait(found)
            hit = next((a for a in results if expected in a.get_attribute("href")), None)
        except Exception:
            hit = None
        if hit is None:
            self.problems.append(f"search: {word} does not find {expected}")
            return
        hit.click()
        self.wait(lambda d: expected in d.current_url)
        self.heard(f"search for {word}")

    def open_drawer(self):
        """On a telephone the navigation is behind a button."""
        self.driver.set_window_size(*NARROW)
        self.driver.get(self.home + "index.html")
        self.driver.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__drawer]").click()
        link = self.driver.find_element(
            By.CSS_SELECTOR, ".md-nav--primary a[href='changelog.html'], .md-nav--primary a"
        )
        self.wait(lambda d: link.is_displayed())
        self.heard("drawer")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", nargs="?", type=pathlib.Path, default=ROOT / "site")
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()
    begin, site = time.perf_counter(), args.site.resolve()
    if not (site / "index.html").is_file():
        sys.exit(f"There is no site in {site}: run mkdocs build --strict first")
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)

    problems, pages, followed = crawl(site)
    problems += undocumented(site, pages)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = start(profile)
        try:
            reader = Reader(driver, site, args.screenshots)
            clicked = reader.click_through(pages)
            reader.search("adamw", "reference/optimizers.html")
            reader.open_drawer()
        finally:
            driver.quit()
    problems += reader.problems
    names = {path.relative_to(site).as_posix() for path in pages} - {"404.html"}
    problems += [f"{name}: the navigation does not lead there" for name in sorted(names - reader.visited)]
    formulas = sum(page.formulas for page in pages.values())
    print(
        f"{len(reader.visited)} pages, {followed} links, {clicked} clicks, {formulas} formulas: {time.perf_counter() - begin:.0f} s"
    )
    for problem in dict.fromkeys(problems):
        print(f"BROKEN  {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
