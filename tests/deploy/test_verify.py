import numpy as np
import onnx
import pytest

from prune_tool.deploy import verify
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import check_alone, check_parity, predict
from prune_tool.errors import RunError, UsageError, VerificationError


def nudged(file, name, amount):
    """The file with one number of one initialiser changed, as bytes."""
    model = onnx.load(file)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += amount
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model.SerializeToString()


@pytest.mark.parametrize("optimise", [True, False])
def test_a_faithful_file_passes(file, reference, images, optimise):
    parity = check_parity(open_session(file, optimise=optimise), reference, images)
    assert parity.n_top1_agree == parity.n_images == len(images)
    assert parity.max_rel_diff < 1e-5
    largest = np.abs(reference(images)).max()
    assert parity.max_abs_diff == pytest.approx(parity.max_rel_diff * largest)
    whole = check_parity(file, reference, images)
    assert whole.n_images == len(images)
    assert whole.alone is not None
    assert whole.alone.batch_sizes == (1, 2, 7)
    assert whole.alone.max_rel_diff < 1e-5


@pytest.mark.parametrize("name", ["head.weight", "head.bias", "conv.weight"])
def test_a_nudged_weight_is_caught_and_the_message_says_by_how_much(file, reference, images, name):
    names = [tensor.name for tensor in onnx.load(file).graph.initializer]
    assert name in names
    session = open_session(nudged(file, name, 0.05))
    with pytest.raises(VerificationError, match=r"head swap: .*logits differ by .* of the largest; allowed are 0\.001"):
        check_parity(session, reference, images, stage="head swap")


def test_a_file_that_fails_at_one_batch_size_only_is_caught(file, images):
    """The source knows nothing of batches; a file that does must be seen through."""
    session = open_session(file)

    class Treacherous:
        get_inputs, get_outputs = session.get_inputs, session.get_outputs

        def run(self, names, feeds):
            (logits,) = session.run(names, feeds)
            return [logits + (len(logits) == 2)]

    def source(batch):
        return session.run(None, {"images": batch})[0]

    check_parity(Treacherous(), source, images, batch_sizes=(1, 7 - 4))
    with pytest.raises(VerificationError):
        check_parity(Treacherous(), source, images, batch_sizes=(1, 2))


def test_a_class_that_changes_beyond_rounding_is_caught_even_within_a_wide_tolerance(file, reference, images):
    """The file's two best logits lie a margin apart, the source's twice that and the other way round."""
    logits = reference(images)
    first, second = np.argsort(logits[0])[[-1, -2]]
    margin = logits[0, first] - logits[0, second]

    def skewed(batch):
        out = reference(batch)
        out[:, first] -= 1.5 * margin
        out[:, second] += 1.5 * margin
        return out

    with pytest.raises(VerificationError, match="change class"):
        check_parity(file, skewed, images[[0] * 7], tolerance=10.0)


def test_logits_that_are_not_finite_or_of_another_shape_are_caught(file, reference, images):
    with pytest.raises(VerificationError, match="not finite"):
        check_parity(open_session(nudged(file, "head.bias", np.nan)), reference, images)
    with pytest.raises(VerificationError, match="shape"):
        check_parity(file, lambda batch: reference(batch)[:, :4], images)


def test_too_few_images_for_the_largest_batch_is_an_error(file, reference, images):
    with pytest.raises(UsageError, match="at least 7"):
        check_parity(file, reference, images[:6])


def test_predict_takes_batches_of_any_size_in_order(file, reference, images):
    logits = predict(open_session(file), (images[:4], images[4:5], images[5:]))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(images), atol=1e-5)


def test_predict_reports_what_it_cannot_run(file, images):
    session = open_session(file)
    with pytest.raises(RunError, match=r"tensor\(float\) \['batch', 3, 16, 16\]"):
        predict(session, [images[:, :, :8]])
    with pytest.raises(UsageError, match="no images"):
        predict(session, [])


def test_a_lossy_file_may_differ_from_itself_as_much_as_from_its_source(file, images, monkeypatch):
    """Runs optimised at every batch size come out 20 % of the largest logit beside the file as written."""
    plain = predict(open_session(file), [images])
    largest = np.abs(plain).max()

    def shifted(session, batches):
        return predict(session, batches) + 0.2 * largest * (session is not sessions[-1])

    sessions = []
    real = verify.open_session
    monkeypatch.setattr(verify, "open_session", lambda *a, **k: sessions.append(real(*a, **k)) or sessions[-1])
    monkeypatch.setattr(verify, "predict", shifted)

    def judged(source):
        sessions.clear()
        return check_alone(file, images, tolerance=0.1, stage="quantise", source=source).max_rel_diff

    assert judged(plain + 0.25 * largest) == pytest.approx(0.2, rel=1e-3)
    for source in (None, plain, plain + 0.15 * largest):
        with pytest.raises(VerificationError, match=r"differ by 0\.2 of the largest; allowed are 0\.1"):
            judged(source)
