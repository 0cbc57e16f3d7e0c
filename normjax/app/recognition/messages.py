"""What the recogniser may say of a run. Its process knows no languages; the app translates."""


def gettext_noop(text: str) -> str:
    """Marks a text for translation, as Django's does, without settings."""
    return text


NO_CHECKPOINT = gettext_noop("The run has no checkpoint yet.")
OTHER_CLASSES = gettext_noop("The data set has other classes now than when the network was trained.")
NO_LAYERS = gettext_noop("A pruned network is a program of its own; its layers cannot be looked into.")
