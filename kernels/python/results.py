"""Results: what a value shows of itself, figures among it."""


def clean(text):
    """Text that JSON can hold and every parser takes: no lone surrogates, no NUL."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\ufffd")


def cut(text, limit):
    if len(text) <= limit:
        return text
    half = limit // 2
    return (text[:half] + f"\n[... {len(text) - 2 * half} characters left out ...]\n"
            + text[-half:])


def emit(body, later=False):
    if State.channel is not None:
        State.channel.send(MESSAGE, body.encode("utf-8"), run_here(), later)
        check_interrupt()


def encode_json(value):
    """JSON text that any reader takes: no NaN, no integer beyond 64 bits."""
    import json
    import re
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    if re.search(r"\d{19}", text):
        text = json.dumps(json.loads(text, parse_int=lambda digits: int(digits) if
                                     len(digits) < 19 else float(digits)),
                          allow_nan=False, ensure_ascii=False)
    if "\\u0000" in text:
        raise ValueError("NUL in JSON")
    return clean(text)


def encode_mime(mime, value):
    """The JSON of one representation, or None when it is not one."""
    if isinstance(value, tuple) and value:  # with metadata
        value = value[0]
    if value is None:
        return None
    if mime == "application/json" or mime.endswith("+json"):
        return encode_json(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        if mime.startswith("text/") or mime.endswith("+xml"):
            value = value.decode("utf-8", "replace")
        else:
            value = binascii.b2a_base64(value, newline=False).decode("ascii")
    return quote(clean(value)) if isinstance(value, str) else None


def is_figure(value):
    module = MODULES.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def draw(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def represent(value):
    """{mime: JSON text}. What a _repr_*_ method raises goes to stderr and costs that type only."""
    data = {"text/plain": quote(clean(cut(repr(value), PLAIN_MAX)))}
    kind = type(value)
    found = {}
    if is_figure(value):
        State.shown.append(value)
        found["image/png"] = draw(value)
    # Looked up in the type: a class is not its instances, and a mock object has every attribute.
    if getattr(kind, "_repr_mimebundle_", None) is not None:
        attempt(lambda: found.update(first(value._repr_mimebundle_(include=None, exclude=None))))
    for mime, method in METHODS:
        if mime not in found and getattr(kind, method, None) is not None:
            attempt(lambda: found.setdefault(mime, getattr(value, method)()))
    for mime, content in found.items():
        def add():
            text = encode_mime(str(mime), content)
            if text is not None:
                data[clean(str(mime))] = text
        attempt(add)
    return data


def first(bundle):
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    return bundle or {}


def attempt(function):
    try:
        function()
    except NotImplementedError:
        pass
    except Exception as problem:
        say(describe(problem)[2])


def emit_result(data, later=False):
    while sum(len(text.encode("utf-8")) for text in data.values()) > BODY_MAX:
        mime = max(data, key=lambda name: len(data[name]))
        say(f"A result of {len(data.pop(mime))} characters as {mime} was left out: too large.\n")
    emit('{"type":"result","data":{'
         + ",".join(quote(mime) + ":" + text for mime, text in data.items()) + "}}", later)


def display(*values, raw=False, **ignored):
    """Shows each value as a result: an image, HTML or text, whatever it has. raw: {mime: data}."""
    for value in values:
        if raw:
            data = {clean(str(mime)): encode_mime(str(mime), item) for mime, item in value.items()}
            emit_result({mime: text for mime, text in data.items() if text is not None})
        elif State.channel is None:  # a child process has nobody to show it to
            sys.stdout.write(repr(value) + "\n")
        else:
            emit_result(represent(value))


def show_figures(shown=()):
    """Every open figure of pyplot as a result; closes them."""
    helpers = MODULES.get("matplotlib._pylab_helpers")
    if helpers is None:
        return
    managers = sorted(helpers.Gcf.get_all_fig_managers(), key=lambda manager: manager.num)
    try:
        for manager in managers:
            figure = manager.canvas.figure
            if State.channel is not None and not any(figure is one for one in shown):
                emit_result(represent(figure))
    finally:
        close_figures(managers)


def close_figures(managers=None):
    helpers = MODULES.get("matplotlib._pylab_helpers")
    if helpers is not None:
        for manager in managers or helpers.Gcf.get_all_fig_managers():
            helpers.Gcf.destroy(manager.num)


def prepare_pyplot(module):
    """A show() that shows. The backend is left alone, so that what is set in the environment or by
    the code holds here and in subprocesses."""
    def show(*args, **kwargs):
        show_figures(State.shown)

    module.show = disguise(show, module.show)
