from allauth.account.forms import ChangePasswordForm, LoginForm, SetPasswordForm
from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.permissions import projects_of


class PlainLabels:
    """Before a form of allauth: labels that say what to type, and no placeholders, which vanish while one types."""

    labels = {}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            field.label = self.labels.get(name, field.label)
            field.widget.attrs.pop("placeholder", None)


class SignInForm(PlainLabels, LoginForm):
    labels = {"login": _("Name or e-mail address")}


class NewPasswordForm(PlainLabels, SetPasswordForm):
    labels = {"password1": _("New password"), "password2": _("The new password again")}


class OtherPasswordForm(PlainLabels, ChangePasswordForm):
    labels = {"oldpassword": _("Password until now"), **NewPasswordForm.labels}


class TokenForm(forms.Form):
    name = forms.CharField(label=_("What is it for?"), max_length=100, strip=True)
    project = forms.ModelChoiceField(
        label=_("Where does it work?"),
        queryset=None,
        required=False,
        empty_label=_("in all of my projects"),
        help_text=_("A token for one project does less harm if it leaks."),
    )

    def __init__(self, *args, user, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["project"].queryset = projects_of(user).order_by("name", "pk")
