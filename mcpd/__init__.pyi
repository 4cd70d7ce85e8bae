from mcpd.authoring.content import Audio as Audio
from mcpd.authoring.content import Elicit as Elicit
from mcpd.authoring.content import Embedded as Embedded
from mcpd.authoring.content import Image as Image
from mcpd.authoring.content import ResourceLink as ResourceLink
from mcpd.authoring.content import Roots as Roots
from mcpd.authoring.content import Sample as Sample
from mcpd.authoring.content import Text as Text
from mcpd.authoring.context import Context as Context
from mcpd.authoring.declarations import completion as completion
from mcpd.authoring.declarations import prompt as prompt
from mcpd.authoring.declarations import resource as resource
from mcpd.authoring.declarations import tool as tool
from mcpd.authoring.hints import Meta as Meta
from mcpd.errors import RpcError as RpcError
from mcpd.errors import ToolError as ToolError

__version__: str
__all__ = [
    "Audio",
    "Context",
    "Elicit",
    "Embedded",
    "Image",
    "Meta",
    "ResourceLink",
    "Roots",
    "RpcError",
    "Sample",
    "Text",
    "ToolError",
    "completion",
    "prompt",
    "resource",
    "tool",
]
