"""Draw docs/images/describe.png: the table that a notebook shows for `gradtx.describe`, in a headless Chromium.

    python docs/tools/notebook_table.py

Needs what docs/tools/browse.py needs.
"""

import base64
import html
import io
import pathlib
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
from PIL import Image
from selenium.webdriver.common.by import By

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import browse
import maths

import gradtx

FILE = pathlib.Path(__file__).parents[1] / "images" / "describe.png"
STYLE = """
@font-face { font-family: Formulas; src: url(data:font/woff;base64,FONT); }
body { margin: 0; background: #fff; font: 13px system-ui, "DejaVu Sans", sans-serif; color: #222; }
div { display: inline-block; padding: 14px 18px; }
table { border-collapse: collapse; font-size: 12px; }
th, td { padding: 6px 12px; } th { border-bottom: 1px solid #bbb; }
tbody tr:nth-child(odd) { background: #f5f5f5; }
math { font-family: Formulas, math; font-size: 15px; } code { font-family: "DejaVu Sans Mono", monospace; font-size: 11.5px; }
"""


def main():
    params = {
        "kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32),
        "bias": jax.ShapeDtypeStruct((1024,), jnp.float32),
    }
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3, weight_decay=0.1))
    table = gradtx.describe(tx, params)._repr_html_()
    table = re.sub(r"\$(.+?)\$", lambda m: maths.mathml(html.unescape(m[1]), "inline"), table)
    style = STYLE.replace("FONT", base64.b64encode(maths.font()).decode())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = pathlib.Path(folder) / "table.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{table}")
        driver = browse.start(folder + "/profile", "--force-device-scale-factor=1.6")
        try:
            driver.get(page.as_uri())
            driver.execute_async_script("document.fonts.ready.then(() => arguments[0]())")
            shot = driver.find_element(By.CSS_SELECTOR, "div").screenshot_as_png
        finally:
            driver.quit()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(FILE, optimize=True)
    print(FILE)


if __name__ == "__main__":
    main()
