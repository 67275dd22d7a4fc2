"""Where models come from, and what is said when they do not come."""

import pytest

from caseharden.engines.engine import generate_text
from caseharden.engines.native import Native
from caseharden.errors import CasehardenError
from caseharden.lm import sources as models
from caseharden.lm.lm import LM


def test_a_folder_with_a_model_stands_for_itself(no_hub, tiny_lm, tmp_path):
    with pytest.raises(CasehardenError, match="holds no model"):
        models.resolve(str(tmp_path))
    tiny_lm.save(tmp_path)
    assert models.resolve(str(tmp_path)) == tmp_path


def test_models_of_the_package_go_by_name(no_hub):
    assert {"almanac-victim", "almanac-never-learned"} <= set(models.packaged())
    assert generate_text(Native(), LM.load(models.resolve("almanac-victim")), ["what ?"], max_new_tokens=2)


def test_fetched_models_go_by_their_hub_id(no_hub, tiny_lm):
    folder = models.cache() / "someone" / "tiny"
    tiny_lm.save(folder)
    (models.cache() / "someone" / ".fetching-abc").mkdir()
    assert models.fetched() == {"someone/tiny": folder}
    assert models.resolve("someone/tiny") == folder
    assert models.is_on_hub("someone/tiny"), "anybody can have it, wherever this copy came from"
    assert not models.is_on_hub(str(folder)) and not models.is_on_hub("almanac-victim")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("almanac-victm", "Did you mean 'almanac-victim'?"),
        ("./not/there", "neither a folder nor a hub id"),
        ("someone/else", "(no route to the hub). Check name and connection, or give a folder."),
    ],
)
def test_a_model_that_cannot_be_had(no_hub, name, said):
    with pytest.raises(CasehardenError) as error:
        models.resolve(name)
    assert said in str(error.value)
