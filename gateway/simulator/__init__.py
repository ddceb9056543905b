"""The embedded upstream: the VIKTOR REST API for tests, demonstrations and newcomers.

A real HTTP server that keeps its jobs in memory. It runs no app: what a job does is chosen by the caller.
It shares no code with the gateway, so that it stays an independent witness for the gateway's REST client.

    POST   /api/workspaces/{workspace_id}/entities/{id}/jobs/      200 or 201
    POST   /api/workspaces/{workspace_id}/entities/{id}/session/   200
    GET    /api/jobs/{uid}/                                        200
    DELETE /api/jobs/{uid}/                                        204, 409 for a job that has ended
    POST   /faults/    a JSON array of faults, for any request to the API: 204
    DELETE /faults/    forgets them: 204

For example:

    curl -H 'Authorization: Bearer demo-token' -H 'Content-Type: application/json' $URL/workspaces/1/entities/7/jobs/
         -d '{"method_name": "fail", "params": {"duration": 10, "steps": 5}}'

Every request needs `Authorization: Bearer <token>` with a token of the simulator. A job belongs to the token
that made it: another token's GET gets 404, its DELETE 403. The workspace and the entity called `404` do not
exist; every other does.

How a job goes, by its `method_name`:

==================  ===========================================================================================
`succeed`           it succeeds; also without a method name, and with any that is not listed here
`fail`              the app's code raises an error
`user_error`        the app shows an error to its user, with invalid fields
`timeout`           it takes longer than it may; so does every job that reaches the `timeout` of its POST
`stop`              it is stopped (in the second shape cancelled, with an error that says so)
`cancel`            it is cancelled, as by a DELETE, by somebody else
`expire`            it expires before it is run
`reload`            it ends because the app reloads
`unknown_status`    its status becomes a word that nobody knows, with a sign of its end or without one
`never`             it runs until it is cancelled or timed out
`refuse`            no job: the POST gets 400 with field errors, nested ones among them
==================  ===========================================================================================

How long, with which progress, result, shape and faults: see `gateway.simulator.parameters` for `params`, and
`gateway.simulator.faults` for the faults.
"""

from gateway.simulator.faults import Fault
from gateway.simulator.recording import Recorded
from gateway.simulator.script import Ending
from gateway.simulator.server import Simulator
from gateway.simulator.submission import REFUSE

METHODS = (*(ending.value for ending in Ending), REFUSE)
"""The method names that choose how a job goes; with any other it succeeds."""

__all__ = ["METHODS", "Fault", "Recorded", "Simulator"]
