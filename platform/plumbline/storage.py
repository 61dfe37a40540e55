"""Static files under names that carry their content's hash, so that browsers keep them for ever."""

from whitenoise.storage import CompressedManifestStaticFilesStorage

OWN_MODULES = "js/"


class HashedStaticFiles(CompressedManifestStaticFilesStorage):
    # Our modules import each other by hashed names too; else a page could mix two versions after an upgrade.
    support_js_module_import_aggregation = True

    def url_converter(self, name, *args, **kwargs):
        # Other packages' modules stay as they are: some import what they do not ship.
        if name.endswith(".js") and not name.startswith(OWN_MODULES):
            return lambda match: match.group()
        return super().url_converter(name, *args, **kwargs)
