from allauth.account.forms import LoginForm
from django import forms
from django.utils.translation import gettext_lazy as _

from annotation.permissions import projects_of


class SignInForm(LoginForm):
    """allauth's form with labels that say what to type, and no placeholders, which vanish while one types."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["login"].label = _("Name or e-mail address")
        for field in self.fields.values():
            field.widget.attrs.pop("placeholder", None)


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
