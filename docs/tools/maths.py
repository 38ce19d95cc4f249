"""Formulas of a page as MathML, and the font they are set in."""

import copy
import html
import io
import pathlib
import re

import latex2mathml.converter
import ziamath
from fontTools import subset

FAMILY = "Formulas"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>([.,:;?)]*)', re.S)
_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.S)
# Latin, accents, Greek, arrows, operators, brackets, and of the mathematical alphabets upright, italic, bold and script.
_LETTERS = [
    (0x20, 0x7E),
    (0xA0, 0xFF),
    (0x300, 0x3FF),
    (0x2000, 0x206F),
    (0x2100, 0x214F),
    (0x2190, 0x21FF),
    (0x2200, 0x23FF),
]
_LETTERS += [(0x27C0, 0x27FF), (0x2A00, 0x2A3F), (0x1D400, 0x1D4CF), (0x1D6A8, 0x1D755)]


# How browsers set what latex2mathml writes: hats and tildes as their own letters, not as stretched or overlapping
# operators; bars around a norm as tall as a letter, close to what they enclose; a minus behind a bracket, comma or
# relation as a sign.
_TIDY = [
    (
        r'<mover(?: accent="true")?>(.*?)<mo(?: [^>]*)?>&#x0005E;</mo></mover>',
        r'<mover>\1<mo stretchy="false">&#x002C6;</mo></mover>',
    ),
    (
        r'<mover(?: accent="true")?>(.*?)<mo(?: [^>]*)?>(?:&#x0007E;|~)</mo></mover>',
        r'<mover>\1<mo stretchy="false">&#x002DC;</mo></mover>',
    ),
    (
        r"(&#x00028;|&#x0005B;|&#x0002C;|&#x02190;|&#x0003D;|[\[(,=])</mo><mo>&#x02212;</mo>",
        r'\1</mo><mo form="prefix">&#x02212;</mo>',
    ),
    (r"<mo(?: [^>]*)?>(&#x02016;|&#x0007C;|\|)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>'),
]


def mathml(latex, display):
    """LaTeX as MathML; raises for what latex2mathml does not understand."""
    latex = re.sub(r"\\(?:text|operatorname)\{[^{}]*\}", lambda m: m[0].replace(r"\_", "_"), latex)
    converted = latex2mathml.converter.convert(latex, display=display)
    for pattern, replacement in _TIDY:
        converted = re.sub(pattern, replacement, converted)
    unknown = re.findall(r">([^<]*[\\$][^<]*)<", converted)
    if unknown:
        raise ValueError(f"not known: {', '.join(unknown)}")
    return converted


def set_formulas(page):
    """The page with MathML in the places of its LaTeX, and what could not be set."""
    problems = []

    def one(match):
        latex = html.unescape(match[2] or match[3]).strip()
        try:
            formula = mathml(latex, "inline" if match[1] == "span" else "block")
        except Exception as error:  # of many kinds, none of them documented
            problems.append(f"the formula {latex!r} is not understood: {error!r}")
            return match[0]
        label = html.escape(latex, quote=True)
        return f'<{match[1]} class="formula" title="{label}">{formula}{match[4]}</{match[1]}>'

    page = _FORMULA.sub(one, page)
    rest = re.search(r"\$\$|\\(frac|sqrt|hat|leftarrow)\b", _CODE.sub("", re.sub(r'title="[^"]*"', "", page)))
    if rest:
        problems.append(f"LaTeX that nothing has set: {page_text(rest)}")
    return page, problems


def page_text(match):
    """Some of the text around a match."""
    return repr(match.string[max(match.start() - 60, 0) : match.end() + 60])


def font():
    """The font of the formulas: bytes of a WOFF file.

    STIX Two Math, as ziamath brings it, with the characters of formulas alone, and a radical for inline formulas. Chromium
    reserves the width of the widest radical there is, and hangs one that is too tall from its bar. So its sizes here are
    one shape in four heights. By the font's license what is changed has another name.
    """
    options = subset.Options(flavor="woff", layout_features=["dtls", "flac", "ssty"], glyph_names=False, hinting=False)
    options.name_IDs = [0, 1, 2, 13, 14]
    source = pathlib.Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    loaded = subset.load_font(str(source), options)
    _shorten_radical(loaded)
    for name in loaded["name"].names:
        if name.nameID == 1:
            name.string = FAMILY
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[code for first, last in _LETTERS for code in range(first, last + 1)])
    cutter.subset(loaded)
    file = io.BytesIO()
    subset.save_font(loaded, file, options)
    return file.getvalue()


def _shorten_radical(loaded):
    """The variants of the radical as the shape of the first, from 0.72 to 2.3 times as tall."""
    radical, variants = loaded.getBestCmap()[0x221A], loaded["MATH"].table.MathVariants
    made = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(radical)]
    shape = copy.deepcopy(loaded["glyf"][radical])
    height = made.MathGlyphVariantRecord[0].AdvanceMeasurement
    made.GlyphAssembly = None
    for record, factor in zip(made.MathGlyphVariantRecord, (0.72, 1.0, 1.6, 2.3), strict=True):
        glyph = copy.deepcopy(shape)
        glyph.coordinates.scale((1.0, factor))
        glyph.recalcBounds(loaded["glyf"])
        loaded["glyf"][record.VariantGlyph] = glyph
        loaded["hmtx"][record.VariantGlyph] = loaded["hmtx"][radical]
        record.AdvanceMeasurement = round(height * factor)
