"""The embedded upstream: the VIKTOR REST API for tests, demonstrations and newcomers.

A real HTTP server that keeps its jobs in memory. It runs no app: the client chooses how each job goes.
It shares no code with the gateway, so that it stays an independent witness for the gateway's REST client.

    POST   /api/workspaces/{workspace_id}/entities/{id}/jobs/      200 or 201
    POST   /api/workspaces/{workspace_id}/entities/{id}/session/   200
    GET    /api/jobs/{uid}/                                        200
    DELETE /api/jobs/{uid}/                                        204, 409 for a job that has ended
    POST   /faults/    a JSON array of faults of any requests to the API: 204
    DELETE /faults/    removes all faults of requests to the API: 204

For example:

    curl -H 'Authorization: Bearer demo-token' -H 'Content-Type: application/json' $URL/workspaces/1/entities/7/jobs/
         -d '{"method_name": "fail", "params": {"duration": 10, "steps": 5}}'

Every request needs `Authorization: Bearer <token>` with a token of the simulator. A job belongs to the token
that sent it: with another token, GET returns 404 and DELETE returns 403. The workspace and the entity called
`404` do not exist; all others do.

The `method_name` chooses how a job goes:

==================  ===========================================================================================
`succeed`           it succeeds; the default, also for names that are not in this table
`fail`              the app's code raises an error
`user_error`        the app shows an error to its user, with invalid fields
`timeout`           it exceeds its time limit, like every job that reaches the `timeout` of its POST
`stop`              it is stopped (in the second shape: cancelled, with an error that says so)
`cancel`            another user cancels it, as with DELETE
`expire`            it expires before it starts
`reload`            it ends because the app reloads
`unknown_status`    its status becomes an undocumented word, with or without a sign that it has ended
`never`             it runs until it is cancelled or reaches its timeout
`refuse`            no job: the POST returns 400 with field errors, some of them nested
==================  ===========================================================================================

`params` chooses the duration, progress, result, shape and faults: see `gateway.simulator.parameters` and
`gateway.simulator.faults`.
"""

from gateway.simulator.faults import Fault
from gateway.simulator.recording import Recorded
from gateway.simulator.script import Ending
from gateway.simulator.server import Simulator
from gateway.simulator.submission import REFUSE

METHODS = (*(ending.value for ending in Ending), REFUSE)
"""The method names that choose how a job goes. With any other name it succeeds."""

__all__ = ["METHODS", "Fault", "Recorded", "Simulator"]
