"""What reading the source of gradtx does not show: a subclass of `Leafwise` becomes a dataclass when it is made."""

import importlib
import inspect
import re

import griffe


class Signatures(griffe.Extension):
    """Gives a class the parameters that calling it takes, and sets the examples of docstrings as code."""

    def on_object(self, *, obj, **_):
        """The section that we call Example is Examples to the parser."""
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)

    def on_function(self, *, func, **_):
        """`Any` is said by saying nothing; a colon in what comes back is no type."""
        for parameter in func.parameters:
            if str(parameter.annotation) == "Any":
                parameter.annotation = None
        if func.docstring:
            kind = "Any" if func.returns is None else str(func.returns)
            func.docstring.value = re.sub(r"^(Returns:\n\s+)(?=.*: )", rf"\1{kind}: ", func.docstring.value, flags=re.M)

    def on_class(self, *, cls, loader, **_):
        """Read the signature off the class itself."""
        if not cls.path.startswith("gradtx.") or "__init__" in cls.members:
            return
        try:
            runtime = getattr(importlib.import_module(cls.module.path), cls.name)
            signature = inspect.signature(runtime)
        except (AttributeError, ValueError, TypeError):
            return
        if not hasattr(runtime, "__dataclass_fields__"):
            return
        kinds = {kind.name: griffe.ParameterKind[kind.name.lower()] for kind in inspect._ParameterKind}
        parameters = [
            griffe.Parameter(p.name, kind=kinds[p.kind.name], default=_default(p))
            for p in signature.parameters.values()
        ]
        function = griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
        cls.set_member("__init__", function)


def _default(parameter):
    return None if parameter.default is parameter.empty else repr(parameter.default)
