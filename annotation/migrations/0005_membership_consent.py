from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0004_question"),
    ]

    operations = [
        migrations.AddField(
            model_name="membership",
            name="consented_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
