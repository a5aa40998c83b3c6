"""What no message may show."""

import pytest
from mlflow.exceptions import MlflowException

from cfpp.errors import masked
from cfpp.registry.provenance import RegistryError, answering


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:secret@host:80/a: refused", "at http://***@host:80/a: refused"),
        ("postgresql+psycopg2://me:se@cr/et@host/db", "postgresql+psycopg2://***@host/db"),
        ("ray://token@host:10001", "ray://***@host:10001"),
        ("http://a:b@c and http://d:e@f", "http://***@c and http://***@f"),
        ("http://127.0.0.1:80: models:/faces@champion", "http://127.0.0.1:80: models:/faces@champion"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_users_and_passwords_of_uris_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_registry_that_does_not_answer_is_named_without_its_password() -> None:
    uri = "http://me:secret@host:5000"
    with pytest.raises(RegistryError) as caught, answering(uri):
        raise MlflowException(f"API request to {uri}/api failed")
    assert str(caught.value) == (
        "mlflow.tracking_uri http://***@host:5000: API request to http://***@host:5000/api failed"
    )
