from __future__ import annotations

import base64
import hashlib
import re

import pytest

from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio


async def test_the_page_allows_its_own_script_and_no_other(serve: Serve) -> None:
    async with serve() as running:
        reply = await running.http.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", reply.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = reply.headers["content-security-policy"]
    assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]


async def test_what_comes_from_the_cdn_is_pinned(serve: Serve) -> None:
    async with serve() as running:
        reply = await running.http.get("/docs")
    foreign = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https://[^"]+)"([^>]*)>', reply.text)
    assert len(foreign) == 2
    for url, attributes in foreign:
        assert re.search(r"@\d+\.\d+\.\d+/", url)
        assert 'integrity="sha384-' in attributes and 'crossorigin="anonymous"' in attributes
        assert url.rpartition("/")[0] + "/" in reply.headers["content-security-policy"]


async def test_nobody_may_frame_it_or_learn_where_one_came_from(serve: Serve) -> None:
    async with serve() as running:
        headers = (await running.http.get("/docs")).headers
    assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "no-referrer")
    assert headers["content-type"].startswith("text/html")
