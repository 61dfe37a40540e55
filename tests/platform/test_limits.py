"""Requests that are too large are refused before their body is read."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

pytestmark = pytest.mark.django_db
UPLOAD = "/projects/stories/prompts/"


@pytest.fixture(autouse=True)
def small_limits(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    settings.LARGEST_UPLOAD_BYTES = 3000


def posted(client, size):
    return client.post(UPLOAD, {"file": SimpleUploadedFile("a.jsonl", b"x" * size)})


def test_it_reads_no_file_of_a_stranger(client, project):
    answer = posted(client, 2000)
    assert answer.status_code == 413
    assert "larger than" in answer.content.decode()
    assert posted(client, 200).status_code == 302  # to the sign-in page


def test_it_takes_files_up_to_the_limit_from_those_signed_in(client_for, admin):
    client = client_for(admin)
    assert posted(client, 2000).status_code == 400  # read, and found to be no prompts
    assert posted(client, 4000).status_code == 413


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "many"])
def test_it_refuses_a_length_that_is_none(client, length):
    answer = client.post("/api/v1/projects/", CONTENT_LENGTH=length)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"
