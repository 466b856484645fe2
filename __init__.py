"""ComfyUI-SamplingKit: schedule, denoiser, guidance and solver, each a socket."""

from importlib.util import find_spec

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"

# Without ComfyUI this package is a library and a command line tool (see headless/cli/).
if __package__ and find_spec("comfy_api"):
    from .nodes import NODES
    from .nodes.host.comfy.api import ComfyExtension
    from .nodes.host.comfy.missing import usable
    from .nodes.host.comfy.offered import offer_if_wished
    from .nodes.host.comfy.route import add_route
    from .nodes.ui.live_route import MOST_BYTES, ROUTE, answer

    class SamplingKit(ComfyExtension):
        """The pack, as ComfyUI sees it."""

        async def on_load(self) -> None:
            add_route(ROUTE, answer, MOST_BYTES)
            offer_if_wished()

        async def get_node_list(self) -> list[type]:
            return usable(NODES)

    async def comfy_entrypoint() -> ComfyExtension:
        return SamplingKit()
