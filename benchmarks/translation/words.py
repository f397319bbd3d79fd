"""The words of the sentences: English and German side by side, with what German grammar asks for."""

# English, plural; German, gender, plural.
THINGS = [
    line.split()
    for line in """
    table tables Tisch m Tische / chair chairs Stuhl m Stühle / lamp lamps Lampe f Lampen
    book books Buch n Bücher / bicycle bicycles Fahrrad n Fahrräder / car cars Auto n Autos
    ticket tickets Fahrkarte f Fahrkarten / house houses Haus n Häuser / key keys Schlüssel m Schlüssel
    letter letters Brief m Briefe / coat coats Mantel m Mäntel / shirt shirts Hemd n Hemden
    bag bags Tasche f Taschen / watch watches Uhr f Uhren / camera cameras Kamera f Kameras
    newspaper newspapers Zeitung f Zeitungen / apple apples Apfel m Äpfel / cake cakes Kuchen m Kuchen
    bottle bottles Flasche f Flaschen / glass glasses Glas n Gläser / plate plates Teller m Teller
    box boxes Kiste f Kisten / picture pictures Bild n Bilder / phone phones Telefon n Telefone
    computer computers Computer m Computer / machine machines Maschine f Maschinen
    ball balls Ball m Bälle / dress dresses Kleid n Kleider / hat hats Hut m Hüte
    umbrella umbrellas Regenschirm m Regenschirme / candle candles Kerze f Kerzen / bed beds Bett n Betten
    mirror mirrors Spiegel m Spiegel / carpet carpets Teppich m Teppiche
    suitcase suitcases Koffer m Koffer
    """.replace("\n", "/").split("/")
    if line.strip()
]
# English; German, gender.
PLACES = [
    line.split()
    for line in """
    kitchen Küche f / garden Garten m / museum Museum n / school Schule f / office Büro n / hotel Hotel n
    park Park m / library Bibliothek f / church Kirche f / theatre Theater n / hospital Krankenhaus n
    station Bahnhof m / bakery Bäckerei f / factory Fabrik f / cellar Keller m / restaurant Restaurant n
    university Universität f / airport Flughafen m
    """.replace("\n", "/").split("/")
    if line.strip()
]
# English, plural; German plural.
PEOPLE = [
    line.split()
    for line in """
    teacher teachers Lehrer / student students Schüler / visitor visitors Besucher / guest guests Gäste
    worker workers Arbeiter / child children Kinder / customer customers Kunden
    tourist tourists Touristen / farmer farmers Bauern / doctor doctors Ärzte / soldier soldiers Soldaten
    passenger passengers Fahrgäste
    """.replace("\n", "/").split("/")
    if line.strip()
]
RELATIVES = [
    ("brother", "Bruder", "m"), ("sister", "Schwester", "f"), ("father", "Vater", "m"), ("mother", "Mutter", "f"),
    ("uncle", "Onkel", "m"), ("aunt", "Tante", "f"), ("grandfather", "Großvater", "m"), ("daughter", "Tochter", "f"),
]  # fmt: skip
ADJECTIVES = [
    ("old", "alt"), ("new", "neu"), ("small", "klein"), ("big", "groß"), ("red", "rot"), ("green", "grün"),
    ("black", "schwarz"), ("white", "weiß"), ("cheap", "billig"), ("beautiful", "schön"), ("heavy", "schwer"),
    ("broken", "kaputt"), ("clean", "sauber"), ("dirty", "schmutzig"), ("long", "lang"), ("round", "rund"),
]  # fmt: skip
CITIES = [
    ("Berlin", "Berlin"), ("Munich", "München"), ("Cologne", "Köln"), ("Vienna", "Wien"), ("Hamburg", "Hamburg"),
    ("Zurich", "Zürich"), ("Nuremberg", "Nürnberg"), ("Prague", "Prag"), ("Paris", "Paris"), ("Rome", "Rom"),
    ("Milan", "Mailand"), ("Warsaw", "Warschau"), ("Geneva", "Genf"), ("Brussels", "Brüssel"), ("London", "London"),
    ("Leipzig", "Leipzig"), ("Bremen", "Bremen"), ("Dresden", "Dresden"), ("Lisbon", "Lissabon"), ("Moscow", "Moskau"),
]  # fmt: skip
NAMES = [
    "Anna", "Peter", "Maria", "Thomas", "Julia", "Max", "Laura", "Paul", "Lena",
    "David", "Sophie", "Felix", "Clara", "Martin", "Nina", "Oskar", "Eva", "Jonas",
]  # fmt: skip
WEEKDAYS = [
    ("Monday", "Montag"), ("Tuesday", "Dienstag"), ("Wednesday", "Mittwoch"), ("Thursday", "Donnerstag"),
    ("Friday", "Freitag"), ("Saturday", "Samstag"), ("Sunday", "Sonntag"),
]  # fmt: skip
# I … every day: English, English third person; German first person, third person, what follows the verb.
HABITS = [
    ("work", "works", "arbeite", "arbeitet"),
    ("cook", "cooks", "koche", "kocht"),
    ("sing", "sings", "singe", "singt"),
    ("learn", "learns", "lerne", "lernt"),
    ("swim", "swims", "schwimme", "schwimmt"),
    ("dance", "dances", "tanze", "tanzt"),
    ("write", "writes", "schreibe", "schreibt"),
    ("play", "plays", "spiele", "spielt"),
    ("wait", "waits", "warte", "wartet"),
]
