"""The many ways in which people ask; each list is for one topic.

Blanks: {it} and {them} name things, {an_it} with an article, {place} a place, {sort} a letter or a digit. A wording
that stands twice is asked twice as often.
"""

COUNT_WORDINGS = (
    "How many {them} are there?", "How many {them} are there?", "How many {them} are there?",
    "How many {them} do you see?", "How many {them} can you see?", "How many {them} are in the picture?",
    "How many {them} are there in this image?", "How many {them} does the picture show?", "Count the {them}.",
    "What is the number of {them}?", "How many {them}?", "Tell me how many {them} there are.",
    "Can you count the {them}?", "Please count the {them} in the picture.", "number of {them}",
)  # fmt: skip
COLOUR_WORDINGS = (
    "What colour is the {it}?", "What color is the {it}?", "What colour is the {it}?", "Which colour is the {it}?",
    "Which color is the {it}?", "What colour does the {it} have?", "What is the colour of the {it}?",
    "What is the color of the {it}?", "Tell me the colour of the {it}.", "What color is the {it} in the picture?",
    "What colour are the {them}?", "What color are the {them}?", "Which colours do the {them} have?",
    "Name the colour of the {it}.", "colour of the {it}",
)  # fmt: skip
ALL_COLOUR_WORDINGS = (
    "What colours are there?", "What colors do you see?", "Which colours are in the picture?", "Name the colours.",
    "Which colors can you see?", "What colours does the picture have?", "List all colors.",
)  # fmt: skip
SHAPE_WORDINGS = (
    "What shape is the {it}?", "What shape is the {it}?", "Which shape is the {it}?", "What is the {it}?",
    "What is the shape of the {it}?", "Which shape does the {it} have?", "What shape does the {it} have?",
    "What kind of thing is the {it}?", "Tell me the shape of the {it}.", "What are the {them}?",
    "What shapes are the {them}?", "Which shapes are {colour}?", "Which shape is {colour}?", "What is {colour}?",
    "Which thing is {colour}?",
)  # fmt: skip
ALL_SHAPE_WORDINGS = (
    "What shapes are there?", "Which shapes do you see?", "What shapes are in the picture?", "Name the shapes.",
    "Which shapes can you see?", "List all shapes.", "What shapes does the picture show?",
)  # fmt: skip
WHERE_WORDINGS = (
    "Where is the {it}?", "Where is the {it}?", "Where is the {it}?", "Where is the {it} in the picture?",
    "Where are the {them}?", "Where can I find the {it}?", "Where do you see the {it}?",
    "In which place is the {it}?", "What is the position of the {it}?", "Where in the image is the {it}?",
    "Tell me where the {it} is.", "In what part of the picture is the {it}?", "Where's the {it}?",
)  # fmt: skip
SIDE_WORDINGS = (
    "What is {place}?", "What is {place}?", "What do you see {place}?", "What can you see {place}?",
    "What is there {place}?", "Which things are {place}?", "Is there anything {place}?",
    "What is {place} of the picture?", "What's {place}?", "Describe what is {place}.", "Name the things {place}.",
)  # fmt: skip
EXISTS_WORDINGS = (
    "Is there {an_it}?", "Is there {an_it}?", "Is there {an_it}?", "Is there {an_it} in the picture?",
    "Are there any {them}?", "Do you see {an_it}?", "Can you see {an_it}?", "Does the picture show {an_it}?",
    "Is {an_it} in the image?", "Do you see any {them}?", "Is there {an_it} here?",
    "Are there {them} in the picture?",
)  # fmt: skip
SIZE_WORDINGS = (
    "How big is the {it}?", "What size is the {it}?", "Is the {it} small or large?", "How large is the {it}?",
    "What is the size of the {it}?", "Is the {it} big or small?", "Which size does the {it} have?",
    "Is the {it} large or small?",
)  # fmt: skip
BRIEF_WORDINGS = (
    "Describe the picture.", "Describe the picture.", "Describe this picture.", "Describe the image.",
    "Describe this image.", "Describe", "Describe it.", "What is in this picture?", "What is in this picture?",
    "What is in the picture?", "What's in this image?", "What is in this image?", "What is this?",
    "What does the picture show?", "What does this image show?", "What can be seen in the picture?",
    "What is shown here?", "What's this?", "Caption this image.", "Write a caption.",
    "Give a short description of the picture.", "Describe the image briefly.", "Describe what is in the picture.",
    "What is on the picture?", "Can you describe the picture?", "Please describe the picture.",
    "Please describe this image in one sentence.", "Tell me about this picture.", "What is depicted?",
    "Which things are in the picture?", "Name everything in the picture.", "What is there?",
    "What objects are in this image?", "What is in the photo?", "Describe the scene.", "List the things you see.",
    "Explain this picture.", "Tell me what is in the image.", "What does the photo show?", "picture", "image?", "?",
)  # fmt: skip
SEE_WORDINGS = (
    "What do you see?", "What do you see?", "What can you see?", "What do you see in this picture?",
    "What do you see here?", "What can you see in the image?", "Tell me what you see.", "Describe what you see.",
    "Say what you see.", "Hello!", "Hi", "Hello, what do you see?", "Hi there", "Hey",
)  # fmt: skip
DETAIL_WORDINGS = (
    "Describe the picture in detail.", "Describe this image in detail.", "Give a detailed description.",
    "Describe everything with its place.", "What is where?", "Where is everything?",
    "Describe all things and where they are.", "Tell me everything about the picture.",
    "Give me a full description of the picture.", "What is in the picture, and where?",
    "Describe the image in detail, please.", "Say what is where in the picture.",
)  # fmt: skip
GLYPH_WORDINGS = (
    "Which {sort} is this?", "Which {sort} is this?", "What {sort} is this?", "What {sort} is it?",
    "Which {sort} is it?", "Which {sort} do you see?", "What {sort} is in the picture?", "Which {sort} is shown?",
    "Read the {sort}.", "What is the {sort}?", "Which {sort} can you see?", "Name the {sort}.",
    "What {sort} does the picture show?", "What {sort} do you see in this image?", "Tell me which {sort} this is.",
    "Can you read the {sort}?",
)  # fmt: skip
SIDES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
READ_WORDINGS = (
    "What does it say?", "Read this.", "Which character is this?", "What character is it?",
    "Is this a letter or a digit?", "Is it a digit or a letter?", "What is written here?", "Read the picture.",
    "What is written in the picture?", "Which symbol is this?", "Can you read it?", "Read the text.",
)  # fmt: skip
