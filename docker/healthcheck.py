"""Exit 0 when the service in this container is ready; the image has no curl, and needs none."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 2.0


def main() -> str | None:
    """Return None when ready, else what is wrong: `sys.exit` makes exit code 1 of it."""
    port = int(os.environ.get("BERTPRESS_PORT") or 8000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready", headers=credentials())
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"port {port} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"/health/ready answers {status}"


def credentials() -> dict[str, str]:
    """What BERTPRESS_PROTECT_HEALTH asks for: the admin token, or the first of the API keys."""
    first_key = os.environ.get("BERTPRESS_API_KEYS", "").split(",")[0].partition(":")[2].strip()
    token = os.environ.get("BERTPRESS_ADMIN_TOKEN") or first_key
    return {"Authorization": f"Bearer {token}"} if token else {}


if __name__ == "__main__":
    sys.exit(main())
