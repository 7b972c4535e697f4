# ruff: noqa: SIM905
"""A fourth set of sentences for `deidentify_text.py`, written after the rules were made general and before they met it.

Names, addresses and phone numbers were drawn from Faker 40.63 (MIT) in twenty languages, by a seed, unseen as well.
"""

from __future__ import annotations

import random
from datetime import date, timedelta

from planted_identities import Plant, written_date

GIVEN = (
    "Aarini Adonis Akcivan Alpin Anastazja Andrew Angela Anne Anđela Augusto Barbora Becky Dean Denis Dorli Eiravati Elizabeth Ennio "
    "Eric Erzsébet Ewa Fiorenzo Frederick Gabriel Gilbert Gregory Guy Gérard Gülzadiye Heikki Heinz-Gerd Ingela Isadora Ivanka Jack "
    "Jagdish Jan Janine Jim Joseph José João Julia Juuso Kaija Karla Leone Lucrețiu Madelief Margot Marguerite Maria Marja Marta Mary "
    "Mauricio Mcebisi Melissa Melita Michał Nathaniel Niko Nomvula Parker Patricia Pavel Philip Rachana Renata Renato Sebattin Simphiwe "
    "Tamás Thando Tomasz Vanessa Victor Victoria Zsigmond Zsolt"
).split()
FAMILY = (
    "Adams Adetokunbo Akgündüz Alvarez Avilés Bailey Bali Barbosa Barros Berthelot Bettoni Bhargava Bolčević Briemer Briere Canetta "
    "Dijkman Dludla Dostálová Dumitrescu Duran Erickson Farkas Fekete Ganesh Gomez Hall Halonen Hernandez Jans Jarl Kelly Klingelhöfer "
    "Korhonen Korutürk Kovács Kovářová Kubrak Lagarde Lima Malecha Manda Matías Mbeje Medač Mikkonen Mngwengwe Mohammed Moreau Mülichen "
    "Nastały Nilsson Okafor Oprea Oyekan Perrin Pettersson Piazzi Pikec Popescu Ragan Reyes Rizzoli Scott Sibisi Siqueira Slavíková Sloan "
    "Szekeres Tušek Uche Vandenbergh Vaughn Voinea Väänänen Vélez Williams Wähner Říhová Şensoy"
).split()
ADDRESSES = (
    "64424 Salazar Village Apt. 499|6731 Wheeler Fort Suite 274|77960 Katherine Roads|7559 Ronald Brook|9 Bray Shoal|20 Grant Spurs|"
    "19 Karl Land|27, avenue de Durand|51, rue Émilie Julien|95, rue Guérin|35, rue Rémy Leroux|Bernfried-Löchel-Allee 30|"
    "Kensyplatz 88-56|Sara-Henschel-Gasse 9/1|Boulevard Palacios 181"
).split("|")
PHONES = (
    "718-515-2134|524-612-1273|634.415.8675x7756|907-724-6772|+44(0)1174960151|(0115) 4960844|+44118 496 0353|0113 4960898|"
    "05 64 19 87 31|02 96 62 81 07|+33 3 53 65 63 67|0427606435|+49 (0) 9205 960708|(07642) 872761|+49(0) 780132400|(05980) 95754|"
    "1-531-930-0686|+39 05834717737|+39 0187067985|3780084099"
).split("|")
INSTITUTIONS = (
    "Ashgrove Memorial Hospital|St. Winifred's Cancer Center|Hôpital Saint-Bénigne|Klinikum Oberwald|Fenwick Diagnostic Imaging|"
    "Penrose University Hospital|Hospital Clínico de Alcázar|Bramley Health System|Castlebar Outpatient Imaging Center|"
    "Riverbend Nursing Home|Dunmore Heart Institute|Corrigan Urgent Care"
).split("|")
SENTENCES = {
    "name: doctor": "Preliminary results were texted to Dr @ overnight.|Dr. @ concurs.|Prof. @ has seen the images.|We thank Dr. @ for the kind referral."
    "|At the request of Dr. @, delayed images were acquired.|Cc: Dr. @, primary care.|Clinical team (Dr. @) is aware.|per Dr @",
    "name: staff": "Images were pushed to PACS by @.|IV access by @, RT.|Handed over to @ on the ward.|Contrast given under supervision of @.|Call taken by @ (night resident)."
    "|Ward sister @ was told.|Over-read requested by @.|Results acknowledged over the phone by @, NP.",
    "name: signature": "Resident: @|Electronically authenticated by @|Co-signed: @|Read and approved: @|Reporting doctor - @|Second reader: @"
    "|Addendum by @|On behalf of @|@, M.D., Ph.D.|Prepared by: @ / checked",
    "name: patient, relative": "Re: @|Patient @ presents with cough.|Next of kin: @|Interpreter @ was present.|His carer @ reports weight loss.|Consent obtained from the daughter, @."
    "|This is a scan of @.|Name: @",
    "date": "Most recent comparison is @.|No change from @ to today.|Surgery took place on @.|Last seen @.|Scheduled for review on @.|Chemotherapy was started @."
    "|Films of @ are not available.|Fall on @ with rib pain.|First noted on @ and stable.|Report date @",
    "phone": "For questions call @.|Reading room extension reachable at @.|Phoned through on @.|Fax the report to @.|Mobile: @|Office tel. @.|Please ring @ to discuss."
    "|Contact number @|My pager is not on, use @.",
    "record number": "Patient identifier @.|MRN @ was merged.|Health card no. @|Insurance ID: @|Unit no @|Previous chart number was @.|National number @|Hospital ID @",
    "accession": "Accession @.|Compare accession number @.|Order no. @|Request # @|Study ref: @|Exam reference @|Images stored under @.|RIS number @",
    "address": "Patient resides at @.|Mailing address: @|Lives alone at @.|Found at home, @, by police.|Address on file is @.|Discharged to @.",
    "e-mail, url": "Write to @.|Report shared via @.|E-mail address @|Images at @ for one month.|Questions: @",
    "time": "Called at @ and again later.|Scan start @.|Arrived in the department at @.|Verbal report @.|The injection was at @.|Signed off at @.",
    "institution": "Outside study from @.|Performed at @.|Patient known to @.|Follow-up will be at @.|Biopsy was done in @.|Referred by the team at @.|@ films were reviewed.",
}


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randrange(1, 10)) + "".join(rng.choice("0123456789") for _ in range(count - 1))


def _name(rng: random.Random) -> str:
    family, given = rng.choice(FAMILY), rng.choice(GIVEN)
    text = rng.choice(
        (
            f"{given} {family}",
            f"{given} {family}",
            f"{given[0]}. {family}",
            f"{family}, {given}",
            f"{given} {rng.choice('ABKLMST')}. {family}",
        )
    )
    return text.upper() if rng.random() < 0.2 else text


def _value(rng: random.Random, label: str) -> str:
    d = _digits
    if label.startswith("name: doctor"):
        return rng.choice((rng.choice(FAMILY), _name(rng)))
    if label.startswith("name"):
        return _name(rng)
    if label == "date":
        return written_date(rng, date(2011, 1, 1) + timedelta(days=rng.randrange(4700)))[0]
    clock = f"{rng.randrange(24)}:{rng.randrange(10, 60)}"
    values = {
        "phone": PHONES,
        "record number": (d(rng, 7), f"{d(rng, 3)} {d(rng, 3)} {d(rng, 4)}", f"K-{d(rng, 6)}", f"{d(rng, 4)}-{d(rng, 4)}-{d(rng, 2)}", f"P{d(rng, 8)}", f"{d(rng, 5)}/{d(rng, 2)}"),
        "accession": (f"CR-{d(rng, 4)}-{d(rng, 5)}", d(rng, 9), f"E{d(rng, 7)}", f"{d(rng, 2)}-{d(rng, 6)}", f"ACC{d(rng, 6)}X", f"RX.{d(rng, 6)}"),
        "address": ADDRESSES,
        "e-mail, url": (f"film.desk{d(rng, 2)}@radnet.example.org", f"https://share.example.net/s/{d(rng, 5)}", f"www.pacs-{d(rng, 2)}.example.com/view", f"dr_{d(rng, 3)}@mail.example.co.uk"),
        "time": (clock, f"{rng.randrange(1, 13)}:{rng.randrange(10, 60)} PM", f"{rng.randrange(1, 13)}pm", "0745 hours", "21h40", f"{clock}:08", "11.20 a.m."),
        "institution": INSTITUTIONS,
    }  # fmt: skip
    return rng.choice(values[label])


def unseen_plants(rng: random.Random, count: int) -> list[Plant]:
    """`count` identifiers of different classes, none of them in the header."""
    plants = []
    for label in rng.sample(sorted(SENTENCES), k=count):
        before, after = rng.choice(SENTENCES[label].split("|")).split("@")
        where = "bottom" if "signature" in label else rng.choice(("top", "inside"))
        plants.append(Plant(f"unseen: {label}", before, _value(rng, label), after, where))
    return plants


# A fifth set, written after the fourth had been met once and mended for; measured once before anything else changed.
LAST = {
    "name: doctor": "Dr @ will follow.|Spoke at length with Dr. @ of oncology.|Dr @ (GP) requested this film.|Awaiting call back from Prof. @.|Dr. @ was at lunch, message taken.",
    "name: staff": "Cannula placed by nurse @.|Report telephoned to @, ward clerk.|Portable film taken by @ at the bedside.|Escalated to @ (SpR).|Image quality checked by @.",
    "name: signature": "Interpreted and signed: @|Duty radiologist: @|/s/ @|Draft: @|Countersigned by @ MD|Teleradiologist: @, DO",
    "name: patient, relative": "The patient, @, was late.|Wife @ waits outside.|Seen together with her son @.|Emergency contact: @|Images of @ and prior studies were loaded.|Surname, name: @",
    "date": "Trauma on @.|Since the study of @ there is growth.|Next visit @.|CT of @ for reference.|Vaccinated @.|Sutures removed @.",
    "phone": "Result line: @|Tel: @|Leave a message on @.|Department secretary @.|Home phone @|Available under @ until 5.",
    "record number": "ID number: @|Old MRN @|NHS no. @|File: @|Patient code @|Social insurance number @",
    "accession": "Accession nr @|Exam no. @|Order ID: @|Linked to study @.|Request form @|Case ID @",
    "address": "Now residing at @.|Home address: @|Has moved to @.|Report to be mailed to @.|Lives with family at @.",
    "e-mail, url": "Contact: @|Mail @ for copies.|Download: @|See also @.",
    "time": "Done at @.|Critical result called @.|Films at @ and later.|Time of death @.|Read by phone at @.",
    "institution": "Transferred from @.|CT at @ showed a nodule.|Followed in @.|Courtesy of @.|Admitted to @ last week.",
}
MORE_ADDRESSES = (
    "1187 Tollgate Court|52 Abbotsford Lane|3 Cedar Terrace, Flat 2B|Am Mühlbach 14|8 rue des Lilas|Calle Mayor 77|Via Garibaldi 5|"
    "400 N Harbor Blvd|Box 1442, Duluth, MN 55802|Kirkegata 12|77 Priory Close, Bath BA2 6HL|2210 Sycamore"
).split("|")
MORE_PHONES = (
    "(415) 555-0182|020 7946 0321|+61 2 5550 9876|555.0147|ext. 4471|0171-5550934|06 12 34 56 78|+1-202-555-0143|8005550199|031 555 12 34"
).split("|")


def last_plants(rng: random.Random, count: int) -> list[Plant]:
    """`count` identifiers in the wordings of the fifth set."""
    plants = []
    for label in rng.sample(sorted(LAST), k=count):
        before, after = rng.choice(LAST[label].split("|")).split("@")
        where = "bottom" if "signature" in label else rng.choice(("top", "inside"))
        pools = {"address": MORE_ADDRESSES, "phone": MORE_PHONES}
        value = rng.choice(pools[label]) if label in pools else _value(rng, label)
        plants.append(Plant(f"last: {label}", before, value, after, where))
    return plants
