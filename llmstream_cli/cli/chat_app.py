"""The command `chat` and its options. What it does is imported when it runs."""

from llmstream_cli.cli import options
from llmstream_cli.cli.sampling import SamplingOptions

HELP = (
    "Talk with a model: questions and answers by turns."
    "\n\nOn a terminal with an editor for the questions; /help in it lists what can be done. Off a "
    "terminal each line of standard input is a question, and standard output gets the answers."
)


def chat(
    features: options.Features = None,
    model: options.Model = None,
    file: options.RepoFile = None,
    tokenizer: options.Tokenizer = None,
    system: options.System = None,
    context: options.Context = None,
    template: options.Template = None,
    think: options.Think = None,
    continue_: options.Continue = False,
    session: options.Session = None,
    no_history: options.NoHistory = False,
    url: options.AskUrl = None,
    api_key: options.ApiKey = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = 0,
    markdown: options.Markdown = True,
    stats: options.Stats = False,
    verbose: options.Verbose = False,
) -> int:
    """Turn the options into settings, and talk."""
    from llmstream_cli.cli.chat import Chat
    from llmstream_cli.cli.engine_options import EngineOptions
    from llmstream_cli.cli.setup import RecordOptions, Setup, ViewOptions
    from llmstream_cli.models.resolve import ModelChoice

    sampling = SamplingOptions(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
    )
    engine = EngineOptions(
        model=ModelChoice(preset=features, model=model, file=file, tokenizer=tokenizer),
        template=template,
        ctx_size=ctx_size,
        threads=threads,
        gpu_layers=gpu_layers,
        url=url,
        api_key=api_key,
        verbose=verbose,
    )
    setup = Setup(
        engine=engine,
        system=system,
        context=context,
        sampling=sampling,
        think=think,
        view=ViewOptions(markdown=markdown, reasoning=think is not False),
        record=RecordOptions(continues=continue_, session=session, off=no_history),
        stats=stats or verbose,
    )
    return Chat(setup=setup).run()
