"""The errors that services raise for a reason a caller can act on.

ServiceError                     grpc status
├── InvalidInput                 INVALID_ARGUMENT     a field is wrong; the message names it and the fix
├── NotFound                     NOT_FOUND            no such stream or watch
├── AlreadyExists                ALREADY_EXISTS       same id, other content
├── TokenForeign                 FAILED_PRECONDITION  a resume token of another cluster, topic or filter
├── TokenExpired                 OUT_OF_RANGE         what it points at was deleted by retention, or is still to come
├── Refused                      FAILED_PRECONDITION  well asked, but the stream or watch cannot serve it as it stands
├── DataLoss                     DATA_LOSS            events are missing or unreadable; never passed over in silence
├── Exhausted                    RESOURCE_EXHAUSTED   a bound was reached: too many subscribers, too slow a reader
├── Unavailable                  UNAVAILABLE          a part this one needs does not answer; worth a retry
└── TimedOut                     DEADLINE_EXCEEDED    asked, and no answer within the time given

A plain ValueError stands for a caller's mistake inside the code. Anything else is a bug and is never swallowed.
"""


class ServiceError(Exception):
    """Base of the tree above; `status` is the name of the gRPC status it becomes."""

    status = "INTERNAL"


class InvalidInput(ServiceError):
    status = "INVALID_ARGUMENT"


class NotFound(ServiceError):
    status = "NOT_FOUND"


class AlreadyExists(ServiceError):
    status = "ALREADY_EXISTS"


class TokenForeign(ServiceError):
    status = "FAILED_PRECONDITION"


class TokenExpired(ServiceError):
    status = "OUT_OF_RANGE"


class Refused(ServiceError):
    status = "FAILED_PRECONDITION"


class DataLoss(ServiceError):
    status = "DATA_LOSS"


class Exhausted(ServiceError):
    status = "RESOURCE_EXHAUSTED"


class Unavailable(ServiceError):
    status = "UNAVAILABLE"


class TimedOut(ServiceError):
    status = "DEADLINE_EXCEEDED"
