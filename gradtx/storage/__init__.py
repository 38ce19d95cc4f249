"""How state is kept: codecs for `with_storage`, and what a memory plan needs to know of them."""

from gradtx._core.storage import Codec as Codec
from gradtx.storage._factored import factored as factored
from gradtx.storage._floats import bfloat16 as bfloat16
from gradtx.storage._floats import float16 as float16
