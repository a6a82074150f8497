"""The one exception for a user's mistake: what happened, what is allowed, which command fixes it."""


class UserError(Exception):
    """A mistake that the user can repair; the command line prints it without a traceback and exits with 2.

    Args:
        what: What happened, with the offending value.
        allowed: What would have been accepted.
        fix: The command or the change that repairs it.
    """

    def __init__(self, what: str, *, allowed: str | None = None, fix: str | None = None) -> None:
        self.what, self.allowed, self.fix = what, allowed, fix
        lines = [what]
        if allowed:
            lines.append(f"  allowed: {allowed}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))
