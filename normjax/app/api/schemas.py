"""What the API takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from normjax.training.config import TrainConfig

Name = Annotated[str, Field(min_length=1, max_length=80)]


class Input(Schema):
    """What a client sends: nothing but what is asked for."""

    model_config = ConfigDict(extra="forbid")


class Problem(Schema):
    """Why a request was refused."""

    detail: str


class Fault(Schema):
    """What is wrong with a field."""

    loc: list[str | int]
    msg: str


class Invalid(Schema):
    """What is wrong with the fields of a request."""

    detail: list[Fault]


class Me(Schema):
    """Whose token it is."""

    username: str
    administrator: bool


class NewRun(Input):
    """A training to be queued."""

    name: str = Field("", max_length=80, description="empty: norm and data set")
    config: TrainConfig = TrainConfig()
    data_set: str | None = Field(None, max_length=20, description="id of a data set of your own, with data.name=folder")


class ChangedRun(Input):
    """What an owner changes of a run; what is left out stays."""

    name: Name | None = None
    archived: bool | None = None
    shared_with_all: bool | None = None
    shared_with: Annotated[list[Annotated[str, Field(max_length=150)]], Field(max_length=100)] | None = None


class Run(Schema):
    """A run and its figures."""

    id: str
    name: str
    kind: Literal["train", "prune", "fold"]
    status: Literal["queued", "starting", "running", "stopping", "finished", "stopped", "failed", "interrupted"]
    message: str
    owner: str
    parent: str | None
    archived: bool
    shared_with_all: bool
    created: datetime
    started: datetime | None
    ended: datetime | None
    config: dict[str, Any]
    figures: dict[str, Any]
    result: dict[str, Any] | None


class Runs(Schema):
    """A page of runs."""

    count: int
    runs: list[Run]


class Metrics(Schema):
    """Lines of metrics, as in ``metrics.jsonl``."""

    lines: list[dict[str, Any]]


class Log(Schema):
    """The end of a log."""

    text: str


class Confusion(Schema):
    """Counts on the test set: rows true, columns predicted."""

    step: int
    classes: list[str]
    counts: list[list[int]]


class Layer(Schema):
    """What a norm does: figures of the channels before and after."""

    layer: str
    before: dict[str, float]
    after: dict[str, float]


class ModelFile(Schema):
    """A file of an exported network."""

    name: str
    url: str
    bytes: int


class Guess(Schema):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    probability: float


class Answer(Schema):
    """What one network says to one picture."""

    picture: str
    run: str
    predictions: list[Guess]


class NewDataSet(Input):
    """A data set to be filled."""

    name: Annotated[str, Field(min_length=1, max_length=60)]


class DataSet(Schema):
    """A data set of the user's own."""

    id: str
    name: str
    pictures: int
    bytes: int
    classes: dict[str, int]


PROBLEMS: dict[Any, Any] = {
    400: Problem,  # no JSON
    401: Problem,
    403: Problem,  # a session without the token against forgery
    404: Problem,
    409: Problem,
    413: Problem,
    422: Invalid,
    429: Problem,
    503: Problem,
}
