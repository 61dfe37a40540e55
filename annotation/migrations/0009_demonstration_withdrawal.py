import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0008_prompt_proposal"),
    ]

    operations = [
        migrations.AddField(
            model_name="demonstration",
            name="withdrawal",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="demonstrations",
                to="annotation.withdrawal",
            ),
        ),
    ]
