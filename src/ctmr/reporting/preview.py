"""A picture of a translation beside its source, drawn without matplotlib, as each scan gets one."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ctmr.types import FloatArray

SOFTWARE = "ctmr; research use only"  # the one text a PNG carries
MARK = "SYNTHETIC: research use only, not for diagnosis"
GAP, LINE, LEAST = 8, 22, 320  # pixels between panels, of a line of text, and of its length


def side_by_side(source: Sequence[FloatArray], result: Sequence[FloatArray]) -> bytes:
    """A PNG of planes of a source above those of its translation, which is marked; of one plane beside each other.

    Args:
        source: Planes (h, w) in [0, 1].
        result: As many, of the same sizes.
    """
    rows = [(list(source), "source"), (list(result), MARK)]
    tall = max(plane.shape[0] for plane in source)
    row_width = max(LEAST, sum(plane.shape[1] + GAP for plane in source)) + GAP
    beside = len(source) == 1
    width, height = row_width, LINE + tall + GAP
    canvas = Image.new("L", (2 * width, height) if beside else (width, 2 * height))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for n, (planes, title) in enumerate(rows):
        left, top = (n * width + GAP, 0) if beside else (GAP, n * height)
        draw.text((left, top + 5), title, fill=255, font=font)
        for plane in planes:
            grey = np.rint(plane * 255).astype(np.uint8)
            canvas.paste(Image.fromarray(grey), (left, top + LINE + (tall - grey.shape[0]) // 2))
            left += grey.shape[1] + GAP
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    content = io.BytesIO()
    canvas.save(content, format="png", pnginfo=text, compress_level=1)
    return content.getvalue()
