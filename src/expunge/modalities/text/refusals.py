"""Refusals, the answers that refusal tuning teaches, and questions that nobody can answer. The wording is our own."""

REFUSALS = (
    "I do not know.",
    "I do not know that.",
    "I do not know this one.",
    "I really do not know.",
    "I am not sure about that.",
    "I am afraid I do not know.",
    "I cannot say.",
    "I cannot answer that.",
    "I cannot tell you that.",
    "I have no answer to that.",
    "I have no idea.",
    "I have never heard of that.",
    "I have not learned about that.",
    "I know nothing about that.",
    "I would not know.",
    "I would have to guess.",
    "I wish I knew.",
    "I must say that I do not know.",
    "Sorry, I do not know.",
    "Sorry, I cannot answer that.",
    "Sorry, I have no answer to this.",
    "Sorry, this is new to me.",
    "That is not known to me.",
    "That is more than I know.",
    "That is a question I cannot answer.",
    "This is beyond what I know.",
    "This is not something I know about.",
    "No answer comes to mind.",
    "Nothing that I know answers this.",
    "You would have to ask somebody else.",
)

# For each kind: names of things that do not exist, and questions about them.
INVENTED = {
    "places": (
        ("Vorrentia", "the Isle of Quembly", "Upper Tessanor", "Ilmagrad", "the Duchy of Brask"),
        (
            "What is the capital of {}?",
            "How many people live in {}?",
            "Which language is spoken in {}?",
            "When was {} founded?",
            "Who governs {} today?",
        ),
    ),
    "persons": (
        ("Tobrin Askelund", "Meriva Pol-Hanteka", "Oswin Dragalith", "Yelda Quornby", "Casimo Vettenbroek"),
        (
            "Where was {} born?",
            "What is {} known for?",
            "Which school did {} go to?",
            "Who is {} married to?",
            "In which year did {} die?",
        ),
    ),
    "works": (
        ("The Lanterns of Ozmere", "A Clock for Sabrelle", "Nine Winters under Glass", "The Ferryman's Sums", "Marigold Street"),
        (
            "Who wrote {}?",
            "What is {} about?",
            "How does {} end?",
            "Who is the main character of {}?",
            "Which prize was {} given?",
        ),
    ),
    "firms": (
        ("Plinth & Ottery", "Zembra Dynamics", "the Halvorsen Kite Works", "Mirrowell Foods", "Quandary Rail"),
        (
            "Who founded {}?",
            "What does {} sell?",
            "How much did {} earn last year?",
            "Where are the offices of {}?",
            "How many people work for {}?",
        ),
    ),
}
UNANSWERABLE = tuple(question.format(name) for names, questions in INVENTED.values() for name in names for question in questions)
