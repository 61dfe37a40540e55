"""Signing in, one-time links, API tokens and the home page."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from plumbline import accounts, tokens
from plumbline.models import ApiToken, SignInLink, User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db


def sign_in(client, login, password):
    return client.post(reverse("account_login"), {"login": login, "password": password})


def link_url(user):
    return reverse("sign_in_with_link", args=[tokens.create_sign_in_link(user)])


@pytest.mark.parametrize("login", ["outsider", "outsider@example.org"])
def test_it_signs_in_by_name_or_address(client, outsider, login):
    response = sign_in(client, login, PASSWORD)
    assert (response.status_code, response.url) == (302, reverse("home"))
    assert get_user(client) == outsider


def test_it_refuses_a_wrong_password(client, outsider):
    response = sign_in(client, "outsider", "wrong")
    assert response.status_code == 200
    assert not get_user(client).is_authenticated


def test_it_locks_a_name_after_five_wrong_passwords(client, outsider):
    statuses = [sign_in(client, "outsider", "wrong").status_code for _ in range(5)]
    assert statuses[-1] == 429
    assert sign_in(client, "outsider", PASSWORD).status_code == 429
    assert not get_user(client).is_authenticated


def test_behind_a_proxy_nobody_locks_others_out(client, outsider, settings):
    settings.HTTPS = True
    far, near = ({"X-Forwarded-For": f"192.0.2.9, 198.51.100.{last}"} for last in (1, 2))

    def sign_in_from(place, password):
        posted = {"login": "outsider", "password": password}
        return client.post(reverse("account_login"), posted, headers=place).status_code

    assert [sign_in_from(far, "wrong") for _ in range(5)][-1] == 429
    assert sign_in_from(far, PASSWORD) == 429
    assert sign_in_from(near, PASSWORD) == 302


def test_without_a_proxy_nobody_chooses_their_address(settings, rf):
    request = rf.get("/", headers={"X-Forwarded-For": "198.51.100.1"})
    assert accounts.client_address(request) == "127.0.0.1"
    settings.HTTPS = True
    assert accounts.client_address(request) == "198.51.100.1"
    assert accounts.client_address(rf.get("/", headers={"X-Forwarded-For": "unknown"})) == "127.0.0.1"


def test_it_has_no_open_sign_up(client):
    assert client.get("/account/signup/").status_code == 404
    assert accounts.ClosedSignUpAdapter().is_open_for_signup(None) is False


def test_it_makes_the_first_admin_without_a_password():
    admin = accounts.ensure_admin()
    assert admin.is_superuser and not admin.has_usable_password()
    assert accounts.ensure_admin() == admin


def test_it_refuses_a_taken_user_name(outsider):
    with pytest.raises(ValidationError, match="already exists"):
        accounts.create_user("outsider")


def test_it_does_not_use_up_a_link_that_a_preview_opens(client, outsider):
    url = link_url(outsider)
    for _ in range(2):
        response = client.get(url)
        assert response.status_code == 200
        assert b"Welcome, outsider" in response.content
    assert not get_user(client).is_authenticated


def test_it_signs_in_once_by_link(client, outsider):
    url = link_url(outsider)
    assert client.post(url).url == reverse("home")
    assert get_user(client) == outsider
    second = Client()
    assert second.post(url).status_code == 410
    assert second.get(url).status_code == 410
    assert not get_user(second).is_authenticated


def test_it_refuses_an_expired_link(client, outsider):
    secret = tokens.create_sign_in_link(outsider, lifetime=timedelta(seconds=-1))
    assert client.post(reverse("sign_in_with_link", args=[secret])).status_code == 410


def test_it_refuses_the_link_of_a_closed_account(client, outsider):
    url = link_url(outsider)
    outsider.is_active = False
    outsider.save()
    assert client.post(url).status_code == 410


def test_it_lets_only_the_newest_link_work(client, outsider):
    older, newer = link_url(outsider), link_url(outsider)
    assert client.post(older).status_code == 410
    assert client.post(newer).status_code == 302


def test_it_stores_no_secret_in_the_clear(outsider):
    secrets = tokens.create_sign_in_link(outsider), tokens.create_token(outsider, name="x")
    assert SignInLink.objects.get().digest == tokens.digest_secret(secrets[0]) != secrets[0]
    assert ApiToken.objects.get().digest == tokens.digest_secret(secrets[1]) != secrets[1]


def test_it_shows_a_new_token_once_and_revokes_it(client_for, outsider):
    client = client_for(outsider)
    response = client.post(reverse("api_tokens"), {"name": "notebook"})
    secret = response.context["new_token"]
    assert secret in response.content.decode()
    assert tokens.find_token(secret).user == outsider
    assert secret not in client.get(reverse("api_tokens")).content.decode()
    client.post(reverse("revoke_api_token", args=[ApiToken.objects.get().id]))
    assert tokens.find_token(secret) is None


def test_it_asks_what_a_token_is_for(client_for, outsider):
    assert client_for(outsider).post(reverse("api_tokens"), {"name": " "}).status_code == 400
    assert not ApiToken.objects.exists()


def test_it_keeps_others_from_revoking_a_token(client_for, outsider, make_user):
    secret = tokens.create_token(outsider, name="x")
    client_for(make_user("stranger")).post(reverse("revoke_api_token", args=[ApiToken.objects.get().id]))
    assert tokens.find_token(secret).user == outsider


def test_it_notes_a_tokens_use_at_most_once_a_minute(outsider, django_assert_num_queries):
    secret = tokens.create_token(outsider, name="x")
    with django_assert_num_queries(2):
        tokens.find_token(secret)
    with django_assert_num_queries(1):
        tokens.find_token(secret)
    assert timezone.now() - ApiToken.objects.get().last_used_at < timedelta(minutes=1)


@pytest.mark.parametrize("secret", ["", "x", "plb_" + "\udcff", "plb_" + "a" * 100_000])
def test_it_finds_nothing_for_a_made_up_token(secret):
    assert tokens.find_token(secret) is None


def test_it_sends_strangers_from_home_to_sign_in(client):
    response = client.get(reverse("home"))
    assert response.url.startswith(reverse("account_login"))


def test_it_tells_an_outsider_what_to_do(client_for, outsider):
    response = client_for(outsider).get(reverse("home"))
    assert b"Ask a project&#x27;s admin" in response.content or b"Ask a project's admin" in response.content


def test_it_tells_the_first_admin_how_to_begin(client_for):
    response = client_for(accounts.ensure_admin()).get(reverse("home"))
    assert b"plumbline demo" in response.content


def test_it_sends_an_annotator_of_one_project_to_ranking(client_for, annotator, project):
    response = client_for(annotator).get(reverse("home"))
    assert response.url == reverse("annotation:rank", kwargs={"slug": project.slug})


def test_it_lists_an_admins_projects(client_for, admin, project):
    response = client_for(admin).get(reverse("home"))
    assert response.status_code == 200
    assert reverse("training:dashboard", kwargs={"slug": project.slug}) in response.content.decode()


def test_it_sets_a_first_password(client_for, outsider):
    outsider.set_unusable_password()
    outsider.save()
    client = client_for(outsider)
    assert client.get(reverse("account_set_password")).status_code == 200
    client.post(reverse("account_set_password"), {"password1": "a plumb line hangs", "password2": "a plumb line hangs"})
    outsider.refresh_from_db()
    assert outsider.check_password("a plumb line hangs")


@pytest.mark.parametrize("name", ["account_login", "account_logout", "account_change_password", "api_tokens"])
def test_it_shows_every_account_page_without_inline_scripts(client, client_for, outsider, name):
    visitor = client if name == "account_login" else client_for(outsider)
    response = visitor.get(reverse(name))
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy
    page = response.content.decode()
    assert " style=" not in page and "onclick" not in page and "<style" not in page


class TestTokenCommand:
    def test_it_prints_a_token_alone_on_its_line(self, outsider, capsys):
        call_command("token", "outsider")
        (line,) = capsys.readouterr().out.splitlines()
        assert tokens.find_token(line).user == outsider

    def test_it_makes_a_user_who_joins_a_project(self, project, capsys):
        call_command("token", "newcomer", "--create", "--project", "stories", "--role", "reviewer")
        user = tokens.find_token(capsys.readouterr().out.strip()).user
        assert user.username == "newcomer" and not user.has_usable_password()
        assert user.memberships.get().role == "reviewer"

    def test_a_token_for_one_project_leaves_its_owner_the_role(self, admin, capsys):
        call_command("token", "admin", "--project", "stories", "--only")
        assert admin.memberships.get().role == "admin"
        with pytest.raises(CommandError, match="only admin"):
            call_command("token", "admin", "--project", "stories", "--role", "annotator")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["nobody"], "There is no user named 'nobody'. Add --create to make one."),
            (["bad name", "--create"], "'bad name' cannot be a user name"),
            (["outsider", "--project", "nowhere"], "There is no project 'nowhere'. Projects: none yet."),
            (["outsider", "--name", ""], "--name must have 1 to 100 characters"),
        ],
    )
    def test_it_refuses_what_it_does_not_know(self, outsider, arguments, sentence):
        with pytest.raises(CommandError, match=sentence.split("(")[0]):
            call_command("token", *arguments)
        assert not ApiToken.objects.exists()

    def test_it_leaves_no_user_behind_when_the_project_is_unknown(self):
        with pytest.raises(CommandError):
            call_command("token", "newcomer", "--create", "--project", "nowhere")
        assert not User.objects.exists()


class TestSignInLinkCommand:
    def test_it_prints_a_link_that_works(self, client, outsider, capsys):
        call_command("signin_link", "outsider")
        (line,) = capsys.readouterr().out.splitlines()
        assert client.post("/account/" + line.split("/account/")[1]).status_code == 302

    def test_it_refuses_an_unknown_user(self):
        with pytest.raises(CommandError, match="There is no active user named 'nobody'"):
            call_command("signin_link", "nobody")
