"""The files of the page: a fixed list, read from the package."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

PAGE = Path(__file__).parent / "page"
NIIVUE = "niivue.js"  # put there by `make viewer`
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {
    f"/{'' if path.name == 'index.html' else path.name}": path
    for path in sorted(PAGE.iterdir())
    if path.suffix in _TYPES
}
PAGES = frozenset([*_FILES, "/health", "/about"])


def page_routes() -> list[Route]:
    """A route for each file, and one that says whether NiiVue is among them."""
    return [Route("/about", _about), *(Route(path, _file) for path in _FILES)]


async def _about(_: Request) -> Response:
    return JSONResponse({"niivue": f"/{NIIVUE}" in _FILES})


async def _file(request: Request) -> Response:
    path = _FILES[request.scope["path"]]
    return FileResponse(path, media_type=_TYPES[path.suffix])
