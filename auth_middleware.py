"""Who calls, whether they may, and whether their limit allows it.

Endpoints inherit it by being registered.
"""

from dataclasses import dataclass

from flask import Flask, Response, current_app, g, request

from service.errors import Forbidden, RateLimited, Unauthorized
from service.keys import Client, KeyRing
from service.limits import Allowance, RateLimiter
from service.operations import Access, operation_of


@dataclass(frozen=True)
class Gatekeeper:
    """`X-API-Key` to `g.client`, then its limit; an endpoint that says nothing of itself is limited."""

    keys: KeyRing
    limiter: RateLimiter

    def register(self, app: Flask) -> None:
        """Stand before every request of the application."""
        app.before_request(self.admit)
        app.after_request(_write_allowance)

    def admit(self) -> None:
        """Let the request in.

        Raises:
            Unauthorized: no key, or an unknown one.
            Forbidden: a key that is not an admin's, at an admin endpoint.
            RateLimited: the key's limit is used up.
        """
        if request.url_rule is None or request.method == "OPTIONS" or request.endpoint == "static":
            return  # nothing to protect: no such path or method, the list of methods, a page's files
        view = current_app.view_functions.get(request.endpoint or "")
        described = operation_of(view)
        access = Access.LIMITED if described is None else described.access
        if access is Access.PUBLIC:
            return
        g.client = self._identify(access)
        if access is Access.LIMITED and g.client.limit_per_hour is not None:
            g.allowance = self.limiter.hit(g.client.key_id, g.client.limit_per_hour)
            if not g.allowance.allowed:
                raise RateLimited(g.allowance.limit, g.allowance.retry_after_s)

    def _identify(self, access: Access) -> Client:
        presented = request.headers.get("X-API-Key", "")
        if access is Access.ADMIN:
            presented = request.headers.get("X-Admin-Key") or presented
        client = self.keys.find(presented) if presented else None
        if client is None:
            raise Unauthorized("send a valid key in the header X-API-Key")
        if client.role == "health" or (access is Access.ADMIN and client.role != "admin"):
            raise Forbidden(f"the key {client.name!r} may not call this endpoint")
        return client


def _write_allowance(response: Response) -> Response:
    allowance: Allowance | None = g.get("allowance")
    if allowance is not None:
        response.headers["RateLimit-Limit"] = str(allowance.limit)
        response.headers["RateLimit-Remaining"] = str(allowance.remaining)
        response.headers["RateLimit-Reset"] = str(allowance.reset_s)
    return response
