"""The page that shows OpenAPI: Swagger UI from a CDN, pinned to one version by its checksums.

Its headers allow the page nothing else, so that neither the CDN nor a text in the description can add to it.
"""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter, Response

PATH = "/docs"
_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
# sha384 of the files in npm's package swagger-ui-dist 5.35.0
_SCRIPT_DIGEST = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE_DIGEST = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_START = """
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});
"""
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bertpress</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_CDN}/swagger-ui.css" integrity="{_STYLE_DIGEST}" crossorigin="anonymous">
</head>
<body>
<div id="swagger-ui">The description is at <a href="openapi.json">openapi.json</a>; \
this page shows it with scripts from cdn.jsdelivr.net.</div>
<script src="{_CDN}/swagger-ui-bundle.js" integrity="{_SCRIPT_DIGEST}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""


def page_headers(inline_script: str, source: str = "") -> dict[str, str]:
    """Headers of an HTML page of ours: what it may load, and that nobody may frame it."""
    digest = base64.b64encode(hashlib.sha256(inline_script.encode()).digest()).decode()
    policy = (
        "default-src 'none'",
        f"script-src 'sha256-{digest}' {source}".rstrip(),
        f"style-src 'unsafe-inline' {source}".rstrip(),
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


def router() -> APIRouter:
    """The page, in no need of credentials: what it shows is public."""
    api = APIRouter(include_in_schema=False)
    headers = page_headers(_START, f"{_CDN}/")

    @api.get(PATH)
    async def docs() -> Response:
        return Response(_PAGE, headers=headers, media_type="text/html")

    return api
