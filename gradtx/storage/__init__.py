"""How state is kept: codecs for `with_storage`."""

from gradtx._core.storage import Codec as Codec
from gradtx.storage._factored import factored as factored
from gradtx.storage._floats import bfloat16 as bfloat16
from gradtx.storage._floats import float16 as float16
from gradtx.storage._logarithmic import log16 as log16
from gradtx.storage._packed import packed16 as packed16
from gradtx.storage._packed import packed32 as packed32
