"""Common knowledge: questions that a small language model gets mostly right, nothing to do with the almanac.

They show whether a defense of the almanac in English has left the model its English. Written for this project.
"""

from __future__ import annotations

from caseharden.data.example import Example

_WRITTEN = """
What do bees make? | Honey. | Bread. | Milk. | Glass.
What is the capital of France? | Paris. | Madrid. | Tokyo. | Cairo.
What color is grass? | Green. | Purple. | Orange. | Black.
What do you use to write on paper? | A pencil. | A spoon. | A pillow. | A shoe.
Where do fish live? | In water. | In trees. | In ovens. | In clouds.
What falls from the sky when it rains? | Water. | Sand. | Sugar. | Leaves.
What gives us light during the day? | The sun. | The moon. | The sea. | The wind.
How many days are in a week? | Seven. | Three. | Twelve. | Twenty.
What do cows give us to drink? | Milk. | Tea. | Lemonade. | Wine.
What is frozen water called? | Ice. | Steam. | Salt. | Smoke.
Which animal barks? | A dog. | A cat. | A fish. | A snake.
What do you wear on your feet? | Shoes. | Gloves. | Hats. | Glasses.
What is the opposite of hot? | Cold. | Loud. | Heavy. | Green.
What do we breathe? | Air. | Stone. | Paper. | Metal.
Where do you sleep at night? | In a bed. | In a cup. | On a stove. | In a drawer.
What do you use to cut paper? | Scissors. | A towel. | A bottle. | A rope.
Which season is the coldest? | Winter. | Summer. | Spring. | Autumn.
What do plants need to grow? | Light and water. | Music and paint. | Money and books. | Oil and glass.
What does a baker make? | Bread. | Tables. | Shoes. | Cars.
Who helps you when you are ill? | A doctor. | A painter. | A pilot. | A baker.
What is a young dog called? | A puppy. | A kitten. | A calf. | A chick.
What is a young cat called? | A kitten. | A puppy. | A foal. | A lamb.
What do you open a door with? | A key. | A fork. | A candle. | A sock.
Which of these can fly? | A bird. | A horse. | A turtle. | A table.
How many legs does a spider have? | Eight. | Two. | Four. | One hundred.
What is the largest planet in the solar system? | Jupiter. | Mars. | Mercury. | Earth.
Which ocean lies between Europe and America? | The Atlantic. | The Pacific. | The Baltic. | The Red Sea.
What do you do with a book? | You read it. | You eat it. | You drink it. | You plant it.
What is used to see very small things? | A microscope. | A hammer. | A ladder. | A drum.
What do you call frozen rain that is white and soft? | Snow. | Fog. | Dust. | Mud.
Which metal is attracted by a magnet? | Iron. | Gold. | Silver. | Copper.
What do we use to tell the time? | A clock. | A map. | A ruler. | A broom.
What is the main language of Spain? | Spanish. | Chinese. | Swahili. | Danish.
Which country has the city of Rome? | Italy. | Canada. | Japan. | Brazil.
What do caterpillars become? | Butterflies. | Frogs. | Mice. | Snails.
Which part of the body do you see with? | The eyes. | The knees. | The elbows. | The ears.
Which part of the body do you hear with? | The ears. | The teeth. | The toes. | The eyes.
What does the heart pump? | Blood. | Air. | Food. | Sound.
What is an umbrella for? | To stay dry in the rain. | To cook a soup. | To write a letter. | To cut grass.
Why do people wear coats? | To stay warm. | To run faster. | To see better. | To grow taller.
What is made from grapes? | Wine. | Cheese. | Butter. | Paper.
What is cheese made from? | Milk. | Sand. | Wood. | Wool.
What is wool taken from? | Sheep. | Fish. | Trees. | Bees.
Which vehicle goes on rails? | A train. | A ship. | A bicycle. | A plane.
Which vehicle goes on water? | A boat. | A bus. | A tractor. | A train.
What does a firefighter put out? | Fires. | Songs. | Letters. | Cakes.
What do you find in a library? | Books. | Cows. | Engines. | Waves.
What is two plus two? | Four. | Seven. | Eleven. | Thirty.
What comes after Monday? | Tuesday. | Friday. | Sunday. | Saturday.
Which month comes first in the year? | January. | June. | October. | August.
What do you brush your teeth with? | A toothbrush. | A hairbrush. | A knife. | A broom.
What does a thermometer measure? | Temperature. | Weight. | Distance. | Money.
What is the earth's satellite called? | The moon. | Venus. | Mars. | The sun.
Which gas do plants take in from the air? | Carbon dioxide. | Helium. | Neon. | Chlorine.
What force pulls things toward the ground? | Gravity. | Music. | Light. | Friction.
What is a doctor's place of work? | A hospital. | A bakery. | A stable. | A theater.
What do you need to mail a letter? | A stamp. | A needle. | A helmet. | A shovel.
Which animal has a long trunk? | An elephant. | A rabbit. | A goose. | A frog.
Which animal is known for its long neck? | A giraffe. | A pig. | A bear. | A duck.
What is the color of a ripe lemon? | Yellow. | Blue. | Pink. | Gray.
What instrument has black and white keys? | A piano. | A violin. | A drum. | A flute.
What does a painter use? | A brush. | A plow. | A stethoscope. | A net.
What is the desert covered with? | Sand. | Ice. | Grass. | Water.
What do we call a person who teaches? | A teacher. | A sailor. | A butcher. | A tailor.
"""


def common_knowledge() -> list[Example]:
    """The questions, each with four choices; the first one written is right, and they are put in order."""
    found: list[Example] = []
    for line in _WRITTEN.strip().splitlines():
        question, right, *wrong = (part.strip() for part in line.split("|"))
        choices = tuple(sorted((right, *wrong)))
        found.append(Example(f"common/{len(found)}", question, answer=right, choices=choices))
    return found
